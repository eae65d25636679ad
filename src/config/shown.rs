//! Numbers as the JSON of `check` shows them.

use escapement_engine::Bounds;
use serde_json::Value;

/// Returns the lower and the upper limits of all elements.
pub(super) fn limits(bounds: &Bounds) -> (Vec<Value>, Vec<Value>) {
    let both = (0..bounds.dimension()).map(|index| bounds.of(index));
    both.map(|(low, high)| (number(low), number(high))).unzip()
}

pub(super) fn numbers(values: &[f32]) -> Vec<Value> {
    values.iter().copied().map(number).collect()
}

/// Returns the shortest decimal number that reads as this float; a conversion to 64 bits would show digits
/// that are not in the file. Returns `null` for an infinite one.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().ok().filter(|value| value.is_finite()).map_or(Value::Null, Value::from)
}
