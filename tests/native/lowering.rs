//! Lowering of archives written by hand: what lowers, what does not, messages, shapes, fusion, states and
//! in-place operations.

use std::path::Path;

use escapement::denormals::FlushDenormals;
use escapement::policy::native::{Native, Options};
use escapement::policy::{Policy, PolicyError};
use escapement_test_support::torchscript::{
    Constant, archive, members, members_of_source, perceptron, weights, zip,
};

fn load(bytes: &[u8], observation: usize) -> Result<Native, PolicyError> {
    let options = Options { observation: Some(observation), ..Options::default() };
    Native::from_bytes(bytes, Path::new("case.pt"), &options)
}

fn run(body: &str, constants: &[Constant], observation: &[f32]) -> Vec<f32> {
    let mut native =
        load(&archive(body, constants), observation.len()).unwrap_or_else(|error| panic!("{error}"));
    let _flush = FlushDenormals::enter();
    let mut action = vec![f32::NAN; native.dimensions().action];
    native.infer(observation, &mut action).expect("no fault");
    action
}

fn error(body: &str) -> String {
    load(&archive(body, &[]), 4).expect_err("a refusal").to_string()
}

#[test]
fn a_refusal_names_file_line_and_operator() {
    let message = error("y = torch.tanh(x)\nz = torch.fft_fft(y)\nreturn z");
    assert_eq!(message, "case.pt: code/__torch__.py:5: torch.fft_fft: not an operator that runs natively");
    let message = error("if torch.gt(torch.sum(x), 0.):\n  return x\nelse:\n  return torch.neg(x)");
    assert!(message.contains("code/__torch__.py:4"), "{message}");
    assert!(message.contains("cannot branch on"), "{message}");
}

#[test]
fn a_shape_that_does_not_fit_is_said_to_be_one() {
    let refused = load(&perceptron(), 5);
    assert!(matches!(refused, Err(PolicyError::Shape { .. })), "{refused:?}");
    let message = error(
        "ops.prim.RaiseException(torch.format(\"got {}D\", torch.dim(x)), \"builtins.ValueError\")\nreturn x",
    );
    assert!(message.contains("forward raises at these shapes: got 2D"), "{message}");
}

#[test]
fn a_missing_file_is_unreadable() {
    let refused = Native::load(Path::new("no/such/file.pt"), &Options::default());
    assert!(matches!(refused, Err(PolicyError::Unreadable { .. })), "{refused:?}");
}

#[test]
fn the_observation_is_inferred_from_the_first_weights() {
    let native = Native::from_bytes(&perceptron(), Path::new("case.pt"), &Options::default()).expect("sound");
    assert_eq!((native.dimensions().observation, native.dimensions().action), (4, 3));
}

#[test]
fn linear_bias_and_activation_become_one_step() {
    let native = load(&perceptron(), 4).expect("sound");
    let description = native.describe();
    assert_eq!(description.steps.len(), 2, "{description:#?}");
    assert_eq!(description.steps[0].fused, ["tanh"]);
    assert_eq!(description.multiply_adds, 4 * 8 + 8 * 3);
    assert!(description.weight_bytes >= description.multiply_adds * 4);
    assert_eq!(description.steps[0].place, "code/__torch__.py:4");
}

#[test]
fn a_product_plus_a_constant_is_a_layer_with_bias() {
    let body = "y = torch.add(torch.matmul(x, CONSTANTS.c0), CONSTANTS.c1)\nreturn torch.relu(y)";
    let native = load(&archive(body, &[weights(&[4, 3], 1), weights(&[3], 2)]), 4).expect("sound");
    assert_eq!(native.describe().steps.len(), 1, "{:#?}", native.describe());
}

#[test]
fn dead_code_and_constants_cost_nothing() {
    let body = "y = torch.exp(torch.matmul(CONSTANTS.c0, CONSTANTS.c0))\nz = torch.sin(x)\n\
                w = torch.sum(y)\nreturn torch.mul(x, w)";
    let native = load(&archive(body, &[weights(&[3, 3], 1)]), 4).expect("sound");
    assert_eq!(native.describe().steps.len(), 1, "{:#?}", native.describe());
}

#[test]
fn conditions_loops_and_lists_are_decided_while_lowering() {
    let body = "a = [x]\nfor i in range(3):\n  if torch.eq(i, 1):\n    \
                _0 = torch.append(a, torch.mul(x, 10.))\n  else:\n    _1 = torch.append(a, torch.add(x, i))\n\
                return torch.cat(a, 1)";
    assert_eq!(run(body, &[], &[1.0, 2.0]), [1.0, 2.0, 1.0, 2.0, 10.0, 20.0, 3.0, 4.0]);
}

#[test]
fn what_is_written_in_place_is_seen_through_its_own_name() {
    let body = "y = torch.add(x, 1.)\nz = torch.mul_(y, 2.)\nreturn torch.cat([x, y, z], 1)";
    assert_eq!(run(body, &[], &[1.0, 2.0]), [1.0, 2.0, 4.0, 6.0, 4.0, 6.0]);
    // Parts that do not overlap are independent.
    let body = "y = torch.mul(x, 1.)\na, b, = torch.chunk(y, 2, 1)\nc = torch.neg_(a)\n\
                return torch.cat([a, b, c], 1)";
    assert_eq!(run(body, &[], &[1.0, 2.0]), [-1.0, 2.0, -1.0]);
}

#[test]
fn what_is_written_in_place_is_not_read_through_another_view() {
    let message = error("y = torch.mul(x, 1.)\na, b, = torch.chunk(y, 2, 1)\nc = torch.neg_(a)\nreturn y");
    assert!(message.contains("wrote over it in place"), "{message}");
    let body = "return torch.add_(CONSTANTS.c0, x)";
    let message = load(&archive(body, &[weights(&[1, 4], 1)]), 4).expect_err("a refusal").to_string();
    assert!(message.contains("writes to a tensor of the module itself"), "{message}");
}

/// Returns a policy with `h' = tanh(h + x)` and the action `2 h'`.
const CARRIED: &str = "n = torch.tanh(torch.add(h, x))\nreturn (torch.mul(n, 2.), n)";

#[test]
fn states_are_carried_and_reset() {
    let bytes = zip(&members("self, x: Tensor, h: Tensor", CARRIED, &[]));
    let options = Options { observation: Some(2), states: vec![vec![1, 2]], ..Options::default() };
    let mut native = Native::from_bytes(&bytes, Path::new("case.pt"), &options).expect("sound");
    assert_eq!(native.state_shapes(), [vec![1, 2]]);
    let mut action = [0.0; 2];
    let mut step = |native: &mut Native| {
        native.infer(&[0.1, -0.2], &mut action).expect("no fault");
        action[0] / 2.0
    };
    let first = step(&mut native);
    assert!((first - 0.1f32.tanh()).abs() < 1e-6);
    let second = step(&mut native);
    assert!((second - (first + 0.1).tanh()).abs() < 1e-6);
    native.reset();
    assert_eq!(step(&mut native), first);
    native.state_mut(0).expect("a carried state").fill(1.0);
    assert!((step(&mut native) - 1.1f32.tanh()).abs() < 1e-6);
}

#[test]
fn swapped_states_do_not_overwrite_each_other() {
    let body = "return (torch.add(x, a), b, torch.add(a, 1.))";
    let bytes = zip(&members("self, x: Tensor, a: Tensor, b: Tensor", body, &[]));
    let states = vec![vec![1, 1], vec![1, 1]];
    let options = Options { observation: Some(1), states, ..Options::default() };
    let mut native = Native::from_bytes(&bytes, Path::new("case.pt"), &options).expect("sound");
    let mut seen = Vec::new();
    for _ in 0..5 {
        let mut action = [0.0];
        native.infer(&[0.0], &mut action).expect("no fault");
        seen.push(action[0]);
    }
    // a, b = b, a + 1
    assert_eq!(seen, [0.0, 0.0, 1.0, 1.0, 2.0]);
}

#[test]
fn a_fault_leaves_the_states_as_they_were() {
    let body = "i = torch.to(x, 4)\ne = torch.embedding(CONSTANTS.c0, torch.select(i, 1, 0))\n\
                return (e, torch.add(h, 1.))";
    let bytes = zip(&members("self, x: Tensor, h: Tensor", body, &[weights(&[3, 2], 1)]));
    let options = Options { observation: Some(1), states: vec![vec![1, 1]], ..Options::default() };
    let mut native = Native::from_bytes(&bytes, Path::new("case.pt"), &options).expect("sound");
    let mut action = [0.0; 2];
    native.infer(&[2.0], &mut action).expect("no fault");
    assert!(native.infer(&[3.0], &mut action).is_err());
    assert!(native.infer(&[f32::NAN], &mut action).is_err());
    assert_eq!(native.state_mut(0).expect("a carried state"), [1.0]);
}

#[test]
fn states_that_change_their_shape_are_refused() {
    let bytes = zip(&members("self, x: Tensor, h: Tensor", "return (x, torch.cat([h, h]))", &[]));
    let options = Options { observation: Some(2), states: vec![vec![1, 2]], ..Options::default() };
    let refused = Native::from_bytes(&bytes, Path::new("case.pt"), &options);
    assert!(matches!(refused, Err(PolicyError::Shape { .. })), "{refused:?}");
}

#[test]
fn double_precision_keeps_what_single_would_lose() {
    // In single precision, 3000.0001 - 3000 is off by a tenth of the difference. Prices are normalised like
    // this.
    let body = "y = torch.sub(torch.to(x, 7), 3000.0001)\nreturn torch.to(torch.mul(y, 1000.), 6)";
    let action = run(body, &[], &[3000.25]);
    assert!((action[0] - 249.9).abs() < 1e-4, "{action:?}");
}

#[test]
fn functions_and_submodule_sources_are_followed() {
    let source = "def double(x: Tensor) -> Tensor:\n  return torch.mul(x, 2.)\n\
                  class M(Module):\n  scale : Final[float] = 0.5\n  \
                  def inner(self, x: Tensor, times: int=3) -> Tensor:\n    \
                  return torch.mul(x, times)\n  def forward(self, x: Tensor) -> Tensor:\n    \
                  y = (self).inner(__torch__.double(x, ), )\n    return torch.mul(y, self.scale)\n";
    let mut native = load(&zip(&members_of_source(source, &[])), 1).expect("sound");
    let mut action = [0.0];
    native.infer(&[1.5], &mut action).expect("no fault");
    assert_eq!(action, [4.5]);
}
