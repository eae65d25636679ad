//! Writes the seeds of both targets: `corpus DIRECTORY`. Sound archives, by hand and by PyTorch; truncated,
//! bit-flipped, bombed, self-referencing and costly ones; and bodies of `forward` with operators of every kind.

use std::path::PathBuf;
use std::{env, fs, io};

use escapement_test_support::hostile::hostile;
use escapement_test_support::torchscript::{Member, archive, members, perceptron, weights, zip};

/// Archives that PyTorch wrote.
const BUNDLES: [&str; 3] =
    ["config/example.bundle", "tests/data/small.bundle", "tests/data/recurrent.bundle"];

const BODIES: [&str; 12] = [
    "y = torch.tanh(torch.linear(x, CONSTANTS.c0, CONSTANTS.c1))\nreturn torch.softmax(y, -1)",
    "y = torch.add_(torch.mul(x, 2.), CONSTANTS.c1)\na, b, = torch.chunk(y, 2, 1)\nreturn torch.cat([b, a], 1)",
    "if torch.eq(torch.dim(x), 2):\n  y = torch.view(x, [2, -1])\nelse:\n  y = x\nreturn torch.transpose(y, 0, 1)",
    "return torch.where(torch.gt(x, 0.5), x, torch.zeros_like(x, dtype=None))",
    "y = torch.layer_norm(x, [4], CONSTANTS.c1, CONSTANTS.c1)\nreturn torch.to(torch.argmax(y, 1), 6)",
    "for i in range(3):\n  x = torch.add(torch.select(x, 0, 0), i)\n  x = torch.unsqueeze(x, 0)\nreturn x",
    "y = torch.embedding(CONSTANTS.c0, torch.clamp(torch.to(x, 4), 0, 3))\nreturn torch.mean(y, [1])",
    "y = torch.unsqueeze(CONSTANTS.c0, 1)\nz = torch.conv1d(torch.view(x, [1, 1, 4]), y, None, [1], \"same\")\nreturn z",
    "y = torch.glu(x, -1)\nz = torch.rms_norm(torch.prelu(x, CONSTANTS.c1), [4])\nreturn torch.cat([y, z], 1)",
    "y = torch.div(torch.softshrink(x, 0.1), 0.3, rounding_mode=\"trunc\")\nreturn torch.norm(y, 2, [1], True)",
    "h = torch.zeros([1, 1, 1])\no, n = torch.gru(torch.view(x, [4, 1, 1]), h, [CONSTANTS.c0], False, 1, 0., False, False, False)\nreturn o",
    "y = torch.batch_norm(x, CONSTANTS.c1, CONSTANTS.c1, CONSTANTS.c1, CONSTANTS.c1, False, 0.1, 1e-05, True)\nreturn y",
];

fn main() -> io::Result<()> {
    let Some(root) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: corpus DIRECTORY"));
    };
    let constants = || [weights(&[4, 4], 1), weights(&[4], 2)];
    let mut archives = vec![perceptron()];
    for bundle in BUNDLES {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(bundle).join("policy.pt");
        archives.push(fs::read(path)?);
    }
    archives.extend(BODIES.iter().map(|body| archive(body, &constants())));
    let sound = perceptron();
    archives.extend((1..8).map(|eighth| sound[..sound.len() * eighth / 8].to_vec()));
    archives.extend((0..sound.len()).step_by(97).map(|at| {
        let mut flipped = sound.clone();
        flipped[at] ^= 1 << (at % 8);
        flipped
    }));
    let mut bomb = members("self, x: Tensor", "return x", &[]);
    bomb[1] = Member::deflated("code/__torch__.py", &vec![b' '; 4 << 20], 4 << 20);
    archives.push(zip(&bomb));
    let mut cycle = members("self, x: Tensor", "return torch.add(x, CONSTANTS.c0)", &[]);
    cycle[2] = Member::stored("constants.pkl", *b"\x80\x02(]q\x00h\x00at.");
    archives.push(zip(&cycle));
    // Not those of hundreds of kilobytes: libFuzzer takes the longest seed as the length of its inputs.
    let costly = hostile().into_iter().flat_map(|case| [case.bytes, case.neighbour]);
    archives.extend(costly.filter(|bytes| bytes.len() < 32 << 10));
    for (target, seeds) in [
        ("native_archive", archives),
        ("native_source", BODIES.iter().map(|body| body.as_bytes().to_vec()).collect()),
    ] {
        let directory = root.join(target);
        fs::create_dir_all(&directory)?;
        for (index, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{index:03}")), seed)?;
        }
    }
    Ok(())
}
