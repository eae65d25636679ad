//! The choice between single precision and bfloat16 weights, by measurement.
//!
//! Which kernel is fastest depends on the processor: `vdpbf16ps` takes 2.5 times as long as widening on
//! Sapphire Rapids, and a tenth less on Zen 4. It depends on the network too: if all weights fit in the first
//! cache level, single precision wins. So the candidates run once, when a policy is loaded.

use crate::kernels::{Precision, WeightKernel};
use escapement_policy::{Fault, Policy};
use std::fmt;

/// How much longer than the fastest candidate a preferred one may take. Two loads measure a little
/// differently. Without this margin, candidates that are nearly level would take turns in winning, and the
/// bits of the actions would change with them.
pub const MARGIN: f64 = 1.1;

/// Rounds in which the candidates take turns.
const ROUNDS: u32 = 50;
/// Rounds that are run even if the time is over.
const LEAST_ROUNDS: u32 = 3;
/// The time that one turn of a candidate is meant to take. Longer than an interrupt would be too long, and
/// shorter than a hundred times the clock's resolution too inexact.
const TURN_NS: u64 = 10_000;
/// After this time, no further round is begun.
const BUDGET_NS: u64 = 5_000_000;

/// A kernel that competed, and its result.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightCandidate {
    /// The kernel.
    pub kernel: WeightKernel,
    /// The time of one call in nanoseconds. `None` if it was not measured.
    pub ns: Option<f64>,
    /// Why it may not serve.
    pub refused: Option<String>,
}

/// The kernel that was chosen, and the measurements that led to it.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightChoice {
    /// The kernel that serves.
    pub kernel: WeightKernel,
    /// The candidates, the preferred first. Empty if there was no choice.
    pub candidates: Vec<WeightCandidate>,
}

impl WeightChoice {
    /// A kernel without a choice.
    #[must_use]
    pub fn only(kernel: WeightKernel) -> Self {
        Self { kernel, candidates: Vec::new() }
    }
}

impl fmt::Display for WeightChoice {
    /// `bf16 (widened, avx512): 1.77 us; f32 (avx512) 2.47; bf16 (vdpbf16ps) 4.41`
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.kernel.label())?;
        let (winner, others): (Vec<_>, Vec<_>) =
            self.candidates.iter().partition(|candidate| candidate.kernel == self.kernel);
        if let Some(ns) = winner.first().and_then(|winner| winner.ns) {
            write!(out, ": {:.2} us", ns / 1e3)?;
        }
        for WeightCandidate { kernel, ns, refused } in others {
            match (ns, refused) {
                (_, Some(_)) => write!(out, "; {} refused", kernel.label())?,
                (Some(ns), None) => write!(out, "; {} {:.2}", kernel.label(), ns / 1e3)?,
                (None, None) => write!(out, "; {} not measured", kernel.label())?,
            }
        }
        Ok(())
    }
}

/// Returns the index of the candidate to use: the first that is not refused and takes at most [`MARGIN`]
/// times as long as the fastest of these. Candidates without a measurement are passed over. Returns `None` if
/// none is left.
#[must_use]
pub fn choose(candidates: &[WeightCandidate]) -> Option<usize> {
    let ns = |candidate: &WeightCandidate| candidate.ns.filter(|_| candidate.refused.is_none());
    let fastest = candidates.iter().filter_map(ns).min_by(f64::total_cmp)?;
    candidates.iter().position(|candidate| ns(candidate).is_some_and(|ns| ns <= MARGIN * fastest))
}

/// Whether any candidate with bfloat16 weights may serve.
#[must_use]
pub fn allows_bf16(candidates: &[WeightCandidate]) -> bool {
    candidates.iter().any(|it| it.kernel.precision() == Precision::Bf16 && it.refused.is_none())
}

/// Measures one call of each policy, in nanoseconds: the smallest mean of a turn. The policies take turns, so
/// that a change of the clock rate affects all of them. `now` must return nanoseconds. Takes about
/// 5 ms, more only if eight calls of each policy take longer. Afterwards the carried states are the initial
/// ones. Run it under [`escapement_policy::denormals::FlushDenormals`].
///
/// # Errors
/// Fails with the fault of a policy that cannot answer `observation`.
pub fn measure<P: Policy>(
    policies: &mut [P],
    observation: &[f32],
    mut now: impl FnMut() -> u64,
) -> Result<Vec<f64>, Fault> {
    let width = policies.iter().map(|policy| policy.dimensions().action).max().unwrap_or(0);
    let mut action = vec![0.0; width];
    let mut turn = |policy: &mut P, calls: u64| -> Result<u64, Fault> {
        let action = &mut action[..policy.dimensions().action];
        // The other candidates have pushed the weights out of the cache. The engine calls a warm policy.
        policy.infer(observation, action)?;
        let begun = now();
        for _ in 0..calls {
            policy.infer(observation, action)?;
        }
        Ok(now().saturating_sub(begun))
    };
    let mut longest = 1;
    for policy in policies.iter_mut() {
        turn(policy, 1)?;
        longest = longest.max(turn(policy, 1)?);
    }
    let calls = (TURN_NS / longest).clamp(1, 1_000);
    let mut fastest = vec![f64::INFINITY; policies.len()];
    let mut spent = 0;
    for round in 0..ROUNDS {
        if round >= LEAST_ROUNDS && spent >= BUDGET_NS {
            break;
        }
        for (policy, fastest) in policies.iter_mut().zip(&mut fastest) {
            let ns = turn(policy, calls)?;
            spent += ns;
            *fastest = fastest.min(ns as f64 / calls as f64);
        }
    }
    policies.iter_mut().for_each(P::reset);
    Ok(fastest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use escapement_policy::Dimensions;
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn candidate(kernel: WeightKernel, ns: f64) -> WeightCandidate {
        WeightCandidate { kernel, ns: Some(ns), refused: None }
    }

    fn table(single: f64, widened: f64, dot: f64) -> Vec<WeightCandidate> {
        vec![
            candidate(WeightKernel::F32Avx512, single),
            candidate(WeightKernel::Bf16Avx512, widened),
            candidate(WeightKernel::Bf16Vdpbf16ps, dot),
        ]
    }

    #[test]
    fn the_fastest_wins_and_a_level_one_leaves_single_precision() {
        for (times, expected) in [
            // Sapphire Rapids, 128-256-256-3 and 32-64-64-3.
            ((2470.0, 1770.0, 4410.0), WeightKernel::Bf16Avx512),
            ((180.0, 200.0, 410.0), WeightKernel::F32Avx512),
            // Dot products clearly ahead, and ahead by less than the margin.
            ((2000.0, 1500.0, 1300.0), WeightKernel::Bf16Vdpbf16ps),
            ((2000.0, 1320.0, 1250.0), WeightKernel::Bf16Avx512),
            // Level within the margin, on both sides of it.
            ((109.0, 100.0, 100.0), WeightKernel::F32Avx512),
            ((111.0, 100.0, 100.0), WeightKernel::Bf16Avx512),
        ] {
            let candidates = table(times.0, times.1, times.2);
            let chosen = choose(&candidates).expect("one may serve");
            assert_eq!(candidates[chosen].kernel, expected, "{times:?}");
        }
    }

    /// Over every order of three times: bfloat16 never serves if single precision is faster, and nothing
    /// serves that is slower than the fastest by more than the margin.
    #[test]
    fn bf16_never_serves_if_single_precision_is_as_fast() {
        let times = [100.0, 104.0, 109.0, 112.0, 150.0, 400.0];
        for single in times {
            for widened in times {
                for dot in times {
                    let candidates = table(single, widened, dot);
                    let ns = choose(&candidates).and_then(|chosen| candidates[chosen].ns);
                    let ns = ns.expect("one may serve");
                    assert!(ns <= single, "{ns} of {single} {widened} {dot}");
                    assert!(ns <= MARGIN * single.min(widened).min(dot), "{ns} of {single} {widened} {dot}");
                }
            }
        }
    }

    #[test]
    fn what_is_refused_or_not_measured_does_not_serve() {
        let mut candidates = table(2470.0, 1770.0, 900.0);
        candidates[2].refused = Some("golden vector 3".to_owned());
        assert_eq!(choose(&candidates), Some(1));
        assert!(allows_bf16(&candidates));
        candidates[1].refused = Some("golden vector 5".to_owned());
        assert_eq!(choose(&candidates), Some(0));
        assert!(!allows_bf16(&candidates));
        candidates[0].ns = None;
        assert_eq!(choose(&candidates), None);
    }

    #[test]
    fn the_report_names_the_winner_first() {
        let mut candidates = table(2470.0, 1770.0, 4410.0);
        let choice = |candidates: &[WeightCandidate]| WeightChoice {
            kernel: WeightKernel::Bf16Avx512,
            candidates: candidates.to_vec(),
        };
        assert_eq!(
            choice(&candidates).to_string(),
            "bf16 (widened, avx512): 1.77 us; f32 (avx512) 2.47; bf16 (vdpbf16ps) 4.41"
        );
        candidates[2].refused = Some("golden vector 3".to_owned());
        assert!(choice(&candidates).to_string().ends_with("2.47; bf16 (vdpbf16ps) refused"));
        assert_eq!(WeightChoice::only(WeightKernel::F32Avx2).to_string(), "f32 (avx2)");
    }

    /// A policy whose call takes a known time on a clock made for the test. Every seventh call is disturbed.
    struct Timed {
        clock: Arc<AtomicU64>,
        ns: u64,
        calls: u64,
        resets: u64,
    }

    impl Policy for Timed {
        fn dimensions(&self) -> Dimensions {
            Dimensions { observation: 1, action: 1 }
        }

        fn backend(&self) -> &'static str {
            "timed"
        }

        fn infer(&mut self, _observation: &[f32], _action: &mut [f32]) -> Result<(), Fault> {
            self.calls += 1;
            let disturbed = if (self.calls / 40).is_multiple_of(3) { 30_000 } else { 0 };
            self.clock.fetch_add(self.ns + disturbed, Ordering::Relaxed);
            Ok(())
        }

        fn reset(&mut self) {
            self.resets += 1;
        }
    }

    #[test]
    fn the_measurement_finds_the_undisturbed_time_within_its_budget() {
        for scale in [1, 10, 1_000, 100_000] {
            let clock = Arc::new(AtomicU64::new(0));
            let timed = |ns| Timed { clock: Arc::clone(&clock), ns: ns * scale, calls: 0, resets: 0 };
            let mut policies = [timed(247), timed(177), timed(441)];
            let reads = Cell::new(0u32);
            let now = || {
                reads.set(reads.get() + 1);
                clock.load(Ordering::Relaxed)
            };
            let ns = measure(&mut policies, &[0.0], now).expect("no fault");
            if scale == 1 {
                assert_eq!(ns, [247.0, 177.0, 441.0]);
            }
            assert!(ns[1] < ns[0] && ns[0] < ns[2], "{ns:?}");
            assert!(reads.get() <= 2 * (6 + 3 * ROUNDS), "{} clock reads", reads.get());
            assert!(policies.iter().all(|policy| policy.resets == 1));
            let eight_calls = 8 * 441 * 3 * scale + 8 * 3 * 30_000;
            assert!(clock.load(Ordering::Relaxed) < 4 * BUDGET_NS + eight_calls, "scale {scale}");
        }
    }
}
