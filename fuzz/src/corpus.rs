//! Writes the seeds of both targets: `corpus DIRECTORY`. Sound archives, truncated, bit-flipped, bombed and
//! self-referencing ones, and bodies of `forward` with every operator of the tests.

#[path = "../../tests/support/torchscript.rs"]
mod torchscript;

use std::path::PathBuf;
use std::{env, fs, io};

use torchscript::{Member, archive, members, perceptron, weights, zip};

const BODIES: [&str; 7] = [
    "y = torch.tanh(torch.linear(x, CONSTANTS.c0, CONSTANTS.c1))\nreturn torch.softmax(y, -1)",
    "y = torch.add_(torch.mul(x, 2.), CONSTANTS.c1)\na, b, = torch.chunk(y, 2, 1)\nreturn torch.cat([b, a], 1)",
    "if torch.eq(torch.dim(x), 2):\n  y = torch.view(x, [2, -1])\nelse:\n  y = x\nreturn torch.transpose(y, 0, 1)",
    "return torch.where(torch.gt(x, 0.5), x, torch.zeros_like(x, dtype=None))",
    "y = torch.layer_norm(x, [4], CONSTANTS.c1, CONSTANTS.c1)\nreturn torch.to(torch.argmax(y, 1), 6)",
    "for i in range(3):\n  x = torch.add(torch.select(x, 0, 0), i)\n  x = torch.unsqueeze(x, 0)\nreturn x",
    "y = torch.embedding(CONSTANTS.c0, torch.clamp(torch.to(x, 4), 0, 3))\nreturn torch.mean(y, [1])",
];

fn main() -> io::Result<()> {
    let Some(root) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: corpus DIRECTORY"));
    };
    let constants = || [weights(&[4, 4], 1), weights(&[4], 2)];
    let mut archives = vec![perceptron()];
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
