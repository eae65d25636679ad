//! Hostile and damaged archives give a typed error, and never a panic, a hang or memory use beyond the
//! limits.

use std::path::Path;
use std::time::{Duration, Instant};

use escapement::policy::native::{Limits, Native, Options};
use escapement::policy::{Policy, PolicyError};
use escapement_test_support::torchscript::{
    Member, archive, members, members_of_source, perceptron, weights, zip,
};
use proptest::prelude::*;

/// The most time that a refusal may take. Sound archives of this size load in a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

fn load(bytes: &[u8], options: &Options) -> Result<Native, PolicyError> {
    let start = Instant::now();
    let loaded = Native::from_bytes(bytes, Path::new("case.pt"), options);
    assert!(start.elapsed() < PATIENCE, "took {:?}", start.elapsed());
    let panicked = loaded.as_ref().is_err_and(|error| error.to_string().contains("the reader failed"));
    assert!(!panicked, "{loaded:?}");
    loaded
}

/// Loads an archive. If it loads, it must also run.
fn survive(bytes: &[u8]) -> Option<PolicyError> {
    match load(bytes, &Options::default()) {
        Err(error) => Some(error),
        Ok(mut native) => {
            let dimensions = native.dimensions();
            let mut action = vec![0.0; dimensions.action];
            // A fault is as good an answer as an action.
            let _ = native.infer(&vec![0.5; dimensions.observation], &mut action);
            None
        }
    }
}

fn refused(bytes: &[u8], words: &str) {
    let options = Options { observation: Some(4), ..Options::default() };
    let error = load(bytes, &options).expect_err(words).to_string();
    assert!(error.contains(words), "{error:?} does not say {words:?}");
    assert!(!error.contains('\n'), "one line: {error:?}");
}

#[test]
fn the_sound_archive_loads() {
    assert!(survive(&perceptron()).is_none());
}

#[test]
fn every_truncation_is_refused() {
    let sound = perceptron();
    for length in 0..sound.len() {
        assert!(survive(&sound[..length]).is_some(), "{length} of {} bytes", sound.len());
    }
}

#[test]
fn every_flipped_bit_is_survived() {
    let sound = perceptron();
    let mut refusals = 0;
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        refusals += usize::from(survive(&damaged).is_some());
    }
    // Checksums cover all content. Only dates, versions and other fields without meaning can change
    // unnoticed.
    assert!(refusals * 10 > sound.len() * 7, "only {refusals} of {} flips are noticed", sound.len());
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let zeros = vec![0; 64 << 20];
    let options =
        Options { limits: Limits { total_bytes: 1 << 20, ..Limits::default() }, ..Options::default() };
    for declared in [64 << 20, 1 << 10] {
        let mut bomb = members("self, x: Tensor", "return x", &[]);
        bomb[1] = Member::deflated("code/__torch__.py", &zeros, declared);
        let error = load(&zip(&bomb), &options).expect_err("a bomb").to_string();
        assert!(error.contains("bytes"), "{error}");
    }
}

#[test]
fn archives_that_contradict_themselves_are_refused() {
    let mut twice = members("self, x: Tensor", "return x", &[]);
    twice.push(Member::stored("data.pkl", *b"x"));
    refused(&zip(&twice), "two members are named");

    let mut unknown = members("self, x: Tensor", "return x", &[]);
    unknown[0].method = 12;
    refused(&zip(&unknown), "compression method 12");

    let mut checksum = members("self, x: Tensor", "return x", &[]);
    checksum[0].packed = Some(vec![b'.'; checksum[0].content.len()]);
    refused(&zip(&checksum), "checksum");

    let mut big = members("self, x: Tensor", "return x", &[]);
    big.push(Member::stored("byteorder", *b"big"));
    refused(&zip(&big), "big-endian");

    let mut missing = members("self, x: Tensor", "return x", &[]);
    missing.remove(2);
    refused(&zip(&missing), "no member constants.pkl");

    let crowd: Vec<Member> = (0..20_000).map(|index| Member::stored(&index.to_string(), [])).collect();
    refused(&zip(&crowd), "20000 members");
}

fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    let mut members = members("self, x: Tensor", "return torch.add(x, CONSTANTS.c0)", &[]);
    members[2] = Member::stored("constants.pkl", pickle);
    zip(&members)
}

#[test]
fn hostile_pickles_are_refused() {
    for (pickle, words) in [
        (&b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R\x85."[..], "only code could rebuild"),
        (b"\x80\x02(]q\0h\0at.", "nest deeper"),
        (b"\x80\x02h\x05.", "memo slot 5 is empty"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", "out of sequence"),
        (b"\x80\x02X\xff\xff\xff\xffabc.", "ends early"),
        (b"\x80\x02\x8a\xff", "at most 8 are read"),
        (b"\x80\x05N.", "protocol 5"),
        (b"\x80\x02t.", "no mark"),
        (b"\x80\x02(N(R.", "stack is empty"),
        (b"\x80\x02Na.", "stack is"),
        (b"\x80\x02NNb.", "not a new object"),
        (b"\x80\x02cnosuch", "does not end"),
        (b"\x80\x02i", "0x69"),
        (b"", "ends early"),
    ] {
        refused(&with_pickle(pickle), words);
    }
}

#[test]
fn tensors_that_leave_their_storage_are_refused() {
    // A tuple of one tensor with this shape, strides and offset, over a storage of four numbers.
    let tensor = |shape: &[i32], strides: &[i32], offset: i32, storage: &str| {
        let mut pickle = b"\x80\x02(ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage".to_vec();
        pickle.extend(format!("ctorch\n{storage}\n").bytes());
        pickle.extend(b"X\x01\0\0\x000X\x03\0\0\0cpuK\x04tQJ");
        pickle.extend(offset.to_le_bytes());
        for sizes in [shape, strides] {
            pickle.push(b'(');
            sizes.iter().for_each(|size| {
                pickle.push(b'J');
                pickle.extend(size.to_le_bytes());
            });
            pickle.push(b't');
        }
        pickle.extend(b"\x89N\x74Rt.");
        let mut members = members("self, x: Tensor", "return torch.add(x, CONSTANTS.c0)", &[]);
        members[2] = Member::stored("constants.pkl", pickle);
        members.push(Member::stored("constants/0", [0; 16]));
        zip(&members)
    };
    assert!(survive(&tensor(&[4], &[1], 0, "FloatStorage")).is_none());
    refused(&tensor(&[4], &[1], 1, "FloatStorage"), "leaves the 4 stored");
    refused(&tensor(&[4], &[i32::MAX], 0, "FloatStorage"), "leaves the 4 stored");
    refused(&tensor(&[i32::MAX, i32::MAX], &[0, 0], 0, "FloatStorage"), "beyond");
    refused(&tensor(&[-1], &[1], 0, "FloatStorage"), "");
    refused(&tensor(&[2], &[1], 0, "DoubleStorage"), "are declared");
    refused(&tensor(&[2], &[1], 0, "QInt8Storage"), "not run natively");
}

#[test]
fn hostile_source_is_refused() {
    let deep = 100_000;
    let cases = [
        (format!("return {}x{}", "(".repeat(deep), ")".repeat(deep)), "nested deeper"),
        (format!("return {}", "-".repeat(deep)), "nested deeper"),
        (format!("return x{}", ".a".repeat(deep)), "a chain of more"),
        (format!("return {}", "[".repeat(deep)), "nested deeper"),
        ((0..1000).map(|at| format!("{}if True:\n", " ".repeat(at))).collect(), "nest deeper"),
        ("while True:\n  pass\nreturn x".to_owned(), "evaluations"),
        ("return (self).forward(x)".to_owned(), "calls nest deeper"),
        ("for i in range(9223372036854775807):\n  pass\nreturn x".to_owned(), "evaluations"),
        ("return torch.zeros([9223372036854775807, 9223372036854775807])".to_owned(), "beyond"),
        ("return torch.zeros([30000, 30000])".to_owned(), "beyond"),
        ("return torch.expand(x, [30000, 30000, 30000])".to_owned(), "beyond"),
        (
            "y = torch.ones([4000, 4000])\nreturn torch.matmul(y, torch.matmul(y, y))".to_owned(),
            "multiply-adds",
        ),
        ("return \"unterminated".to_owned(), "does not end"),
        ("return 99999999999999999999999".to_owned(), "not a number that fits"),
        ("return \u{1F600}".to_owned(), "has no place"),
        ("return x)".to_owned(), "closes nothing"),
    ];
    for (body, words) in cases {
        refused(&archive(&body, &[weights(&[4], 1)]), words);
    }
}

#[test]
fn shared_parts_do_not_grow_exponentially() {
    let doubling = |last: &str| {
        let mut body = "a0 = [1]\nb0 = [1]\n".to_owned();
        for at in 0..60 {
            body += &format!("a{0} = [a{1}, a{1}]\nb{0} = [b{1}, b{1}]\n", at + 1, at);
        }
        body + last
    };
    refused(
        &archive(&doubling("if torch.eq(a60, b60):\n  return x\nreturn x"), &[weights(&[4], 1)]),
        "compares",
    );
    refused(&archive(&doubling("return torch.tensor(a60)"), &[weights(&[4], 1)]), "uneven or too many");
    refused(&archive(&doubling("return a60"), &[weights(&[4], 1)]), "forward returns");
    let mut concatenated = "a = [1, 2]\n".to_owned();
    concatenated += &"a = torch.add(a, a)\n".repeat(60);
    refused(&archive(&(concatenated + "return x"), &[weights(&[4], 1)]), "evaluations");
    let body = "a = [1]\n_0 = torch.append(a, a)\nreturn x";
    refused(&archive(body, &[weights(&[4], 1)]), "appends a list to a list");
}

fn many_tensors(operator: &str) -> String {
    let mut body = "a = torch.mul(x, 2.)\n".to_owned();
    for at in 0..3000 {
        body += &format!("b{at} = torch.{operator}\n");
    }
    body + "return a"
}

#[test]
fn long_programs_stay_within_their_time() {
    for operator in ["add(a, 1.)", "view(a, [4, 1])", "add_(a, 1.)", "cat([a, a, a], 1)"] {
        let bytes = archive(&many_tensors(operator), &[weights(&[4], 1)]);
        let options = Options { observation: Some(4), ..Options::default() };
        assert!(load(&bytes, &options).is_ok(), "{operator}");
    }
}

#[test]
fn a_shape_that_is_not_there_is_not_searched_for_forever() {
    let signature = "self, x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor";
    let body = "return (torch.cat([x, a, b, c, d, e, f, torch.zeros([9, 9, 9])]), a, b, c, d, e, f)";
    let recurrent: Vec<_> = (1..20).map(|units| weights(&[4 * units, units], 1)).collect();
    assert!(survive(&zip(&members(signature, body, &recurrent))).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_archive(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(survive(&bytes).is_some());
    }

    #[test]
    fn random_pickles_are_survived(bytes in prop::collection::vec(
        prop_oneof![
            any::<u8>(),
            prop::sample::select(&b"(ct)]}u.aestRQbqhNKJ0X\x80\x81\x85\x86\x87\x88\x89\x00\x01\x02\n"[..]),
        ],
        0..200,
    )) {
        survive(&with_pickle(&bytes));
    }

    #[test]
    fn random_edits_are_survived(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut bytes = perceptron();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        survive(&bytes);
    }

    #[test]
    fn random_programs_are_survived(tokens in prop::collection::vec(prop::sample::select(&[
        "x", "y", "=", ",", "(", ")", "[", "]", "torch.add", "torch.view", "torch.cat", "torch.linear",
        "torch.select", "torch.slice", "torch.sum", "torch.transpose", "torch.zeros", "torch.softmax",
        "torch.lstm", "CONSTANTS.c0", "CONSTANTS.c1", "0", "1", "-1", "2", "4", "9223372036854775807", "0.5",
        "None", "True", "self", "\n", "\n    y = ", "\n    return ", "if", ":", ".", "\"a\"", "(x, 1)",
        "(x, -1)", "(x, CONSTANTS.c0)", "torch.add_", "torch.index", "torch.expand", "torch.repeat",
        "torch.conv1d", "torch.embedding", "torch.squeeze", "torch.chunk", "torch.max",
    ][..]), 0..60)) {
        let source = format!(
            "class M(Module):\n  def forward(self, x: Tensor) -> Tensor:\n    y = {}\n    return y\n",
            tokens.join("")
        );
        survive(&zip(&members_of_source(&source, &[weights(&[3, 4], 1), weights(&[4], 2)])));
    }

    #[test]
    fn random_calls_are_survived(calls in prop::collection::vec((
        prop::sample::select(&[
            "view", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "expand", "repeat",
            "select", "slice", "narrow", "index_select", "cat", "stack", "chunk", "split", "sum", "mean",
            "max", "argmax", "norm", "softmax", "layer_norm", "batch_norm", "linear", "addmm", "matmul",
            "conv1d", "lstm", "gru", "lstm_cell", "embedding", "where", "clamp", "pow", "add", "mul_", "div",
            "cumsum", "var", "to", "zeros", "arange", "full", "unbind", "flip", "index", "masked_fill",
            "unflatten", "_convolution", "tensor", "logsumexp", "copy_",
        ][..]),
        prop::collection::vec(prop::sample::select(&[
            "x", "y", "y", "CONSTANTS.c0", "CONSTANTS.c1", "0", "1", "-1", "2", "3", "7", "0.5", "None",
            "True", "[1]", "[0, 1]", "[-1]", "[2, 2]", "[1, -1, 2]", "[x, y]", "[y, y, y]", "[4]",
            "9223372036854775807", "[None, z]", "z", "-9223372036854775808", "[0]", "[]",
            "[1000000, 1000000]",
        ][..]), 0..7),
    ), 1..8)) {
        let body: String = calls
            .iter()
            .map(|(name, arguments)| format!("y = torch.{name}({})\n", arguments.join(", ")))
            .collect();
        let body = format!("y = x\nz = torch.to(x, 4)\n{body}return y");
        let bytes = archive(&body, &[weights(&[4, 4], 1), weights(&[4], 2)]);
        survive(&bytes);
    }
}
