//! Archives that would cost a careless reader much more than their size: memory, time, or the stack. Each
//! comes with a neighbour, a small sound archive that uses the same construct and must load.

use crate::torchscript::{
    Constant, Member, archive, integer, members, members_of_source, text, weights, zip, zip_with_aliases,
};

/// A hostile archive.
pub struct Hostile {
    /// What it attacks with.
    pub name: &'static str,
    /// The archive. Its `forward` takes four elements, as that of the neighbour.
    pub bytes: Vec<u8>,
    /// Words of the refusal. Empty if it must load, since it costs little.
    pub words: &'static str,
    /// The archive that must load.
    pub neighbour: Vec<u8>,
}

fn constants() -> [Constant; 1] {
    [weights(&[3, 4], 1)]
}

/// An archive whose `forward` computes this before one layer.
fn before_a_layer(body: &str) -> Vec<u8> {
    archive(&format!("{body}\nreturn torch.linear(x, CONSTANTS.c0)"), &constants())
}

fn case(name: &'static str, words: &'static str, body: &str, neighbour: &str) -> Hostile {
    Hostile { name, bytes: before_a_layer(body), words, neighbour: before_a_layer(neighbour) }
}

/// A tensor of a pickle over the storage `key`.
fn tensor(storage: &str, key: &str, stored: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let mut pickle = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    pickle.extend(text("storage"));
    pickle.extend(format!("ctorch\n{storage}\n").bytes());
    pickle.extend(text(key));
    pickle.extend(text("cpu"));
    pickle.extend(integer(stored));
    pickle.extend(b"tQ");
    pickle.extend(integer(0));
    for sizes in [shape, strides] {
        pickle.push(b'(');
        sizes.iter().for_each(|&size| pickle.extend(integer(size)));
        pickle.push(b't');
    }
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    pickle
}

/// An archive whose constants are these tensors, after the layer's weights.
fn with_tensors(body: &str, tensors: &[Vec<u8>], more: Vec<Member>) -> Vec<Member> {
    let mut all =
        members("self, x: Tensor", &format!("{body}\nreturn torch.linear(x, CONSTANTS.c0)"), &constants());
    let mut pickle = b"\x80\x02(".to_vec();
    pickle.extend(tensor("FloatStorage", "0", 12, &[3, 4], &[4, 1]));
    tensors.iter().for_each(|tensor| pickle.extend(tensor));
    pickle.extend(b"t.");
    all[2] = Member::stored("constants.pkl", pickle);
    all.extend(more);
    all
}

fn uses(count: usize) -> String {
    (1..=count).map(|at| format!("_{at} = CONSTANTS.c{at}")).collect::<Vec<_>>().join("\n")
}

/// Tensors of `elements` each, all over one stored number.
fn stride_zero(count: usize, elements: usize) -> Vec<u8> {
    let tensors = vec![tensor("LongStorage", "1", 1, &[elements], &[0]); count];
    zip(&with_tensors(&uses(count), &tensors, vec![Member::stored("constants/1", 1i64.to_le_bytes())]))
}

/// `count` members that all share the bytes of one of `size` bytes.
fn overlapping(count: usize, size: usize) -> Vec<u8> {
    let names: Vec<String> = (1..=count).map(|key| format!("constants/{key}")).collect();
    let tensors: Vec<Vec<u8>> =
        (1..=count).map(|key| tensor("ByteStorage", &key.to_string(), size, &[size], &[1])).collect();
    let all = with_tensors(&uses(count), &tensors, vec![Member::stored("constants/1", vec![7; size])]);
    let shared = all.len() - 1;
    let aliases: Vec<(&str, usize)> = names[1..].iter().map(|name| (&**name, shared)).collect();
    zip_with_aliases(&all, &aliases)
}

/// A pickle whose tensors share one list of `length` sizes.
fn shared_shape(count: usize, length: usize) -> Vec<u8> {
    let mut first = b"(".to_vec();
    (0..length).for_each(|_| first.extend(b"K\x01"));
    first.extend(b"tq\x000");
    let mut call = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    call.extend(text("storage"));
    call.extend(b"ctorch\nFloatStorage\n");
    call.extend(text("0"));
    call.extend(text("cpu"));
    call.extend(b"K\x0ctQK\x00h\x00h\x00\x89NtR");
    // The stack keeps the list under the mark's tuple.
    first.truncate(first.len() - 1);
    let mut tensors = vec![first];
    tensors.extend(std::iter::repeat_n(call, count));
    zip(&with_tensors("pass", &tensors, Vec::new()))
}

fn bomb(size: usize) -> Vec<u8> {
    let mut all = members("self, x: Tensor", "return torch.linear(x, CONSTANTS.c0)", &constants());
    let mut pickle = b"\x80\x02".to_vec();
    pickle.resize(size, b'N');
    pickle.extend(b"c__torch__\nM\nq\x00)\x81}(ub.");
    all[0] = Member::deflated("data.pkl", &pickle, pickle.len() as u32);
    zip(&all)
}

/// A method that calls itself below `depth` nested loops.
fn nested_recursion(depth: usize, recurse: bool) -> Vec<u8> {
    let mut source = "class M(Module):\n  def f(self, x: Tensor):\n".to_owned();
    for at in 0..depth {
        source += &format!("{}for i{at} in [0]:\n", " ".repeat(4 + at));
    }
    let last = if recurse { "y = (self).f(x)" } else { "y = x" };
    source += &format!("{}{last}\n    return x\n", " ".repeat(4 + depth));
    source +=
        "  def forward(self, x: Tensor):\n    y = (self).f(x)\n    return torch.linear(x, CONSTANTS.c0)\n";
    zip(&members_of_source(&source, &constants()))
}

/// Returns the hostile archives.
pub fn hostile() -> Vec<Hostile> {
    let nested = |open: &str, close: &str, times: usize| {
        format!(
            "l = {open}0{close}\nfor i in range({times}):\n  l = {}l{}",
            open.repeat(60),
            close.repeat(60)
        )
    };
    let mut all = nesting(&nested);
    all.extend(amplification());
    all.extend(lists());
    all.extend([
        Hostile {
            name: "constants of stride zero",
            bytes: stride_zero(120, 1 << 25),
            words: "too much memory",
            neighbour: stride_zero(3, 64),
        },
        Hostile {
            name: "members that overlap",
            bytes: overlapping(400, 1 << 18),
            words: "too much memory",
            neighbour: overlapping(3, 64),
        },
        Hostile {
            name: "a shape that many tensors share",
            bytes: shared_shape(3_000, 100_000),
            words: "",
            neighbour: shared_shape(3, 2),
        },
        Hostile {
            name: "a declared size",
            bytes: bomb(200 << 20),
            words: "too much memory",
            neighbour: bomb(64),
        },
    ]);
    all
}

fn nesting(nested: &dyn Fn(&str, &str, usize) -> String) -> Vec<Hostile> {
    vec![
        case("lists nest", "nest deeper", &nested("[", "]", 14_000), &nested("[", "]", 1)),
        case("tuples nest", "nest deeper", &nested("(", ",)", 14_000), &nested("(", ",)", 1)),
        Hostile {
            name: "loops nest in a recursion",
            bytes: nested_recursion(90, true),
            words: "calls nest deeper",
            neighbour: nested_recursion(30, false),
        },
        case(
            "axes nest",
            "axes",
            "y = x\nfor i in range(100000):\n  y = torch.unsqueeze(y, 0)",
            "y = x\nfor i in range(10):\n  y = torch.unsqueeze(y, 0)",
        ),
        case(
            "a dotted name grows",
            "a dotted name",
            "p = a\nfor i in range(100000):\n  p = p.b",
            "p = a\nfor i in range(100):\n  p = p.b",
        ),
    ]
}

fn amplification() -> Vec<Hostile> {
    vec![
        case(
            "an expanded constant is copied",
            "too much",
            "y = torch.expand(torch.ones([1, 1]), [8, 4000000])\n\
             for i in range(8):\n  z = torch.contiguous(torch.add(y, torch.ones([8, 1])))\n  y = z",
            "y = torch.expand(torch.ones([1, 1]), [8, 4])\nz = torch.add(y, 1.)",
        ),
        case(
            "a repeated constant",
            "too much",
            "y = torch.repeat(torch.ones([1, 3]), [5000000, 1])\nz = torch.repeat(y, [1, 2])",
            "y = torch.repeat(torch.ones([1, 3]), [5, 1])",
        ),
        case(
            "a constant that doubles",
            "",
            "y = torch.ones([1, 8])\nfor i in range(12):\n  y = torch.cat([y, y], 1)",
            "y = torch.cat([torch.ones([1, 8]), torch.ones([1, 8])], 1)",
        ),
        case(
            "a constant that doubles for long",
            "too much work",
            "y = torch.ones([1, 8])\nfor i in range(40):\n  y = torch.cat([y, y], 1)",
            "y = torch.cat([torch.ones([1, 8]), torch.ones([1, 8])], 1)",
        ),
        case(
            "products of constants",
            "too much work",
            "y = torch.ones([1000, 1000])\nz = torch.matmul(y, y)",
            "y = torch.ones([50, 50])\nz = torch.matmul(y, y)",
        ),
        case(
            "a batch of convolutions",
            "too much",
            "y = torch.expand(torch.ones([1, 1, 1]), [30000000, 1, 1])\n\
             z = torch.conv1d(y, torch.ones([1, 1, 1]))",
            "y = torch.expand(torch.ones([1, 1, 1]), [3, 1, 1])\nz = torch.conv1d(y, torch.ones([1, 1, 1]))",
        ),
        case(
            "a narrow layer is packed",
            "too much",
            "w = torch.expand(torch.ones([1, 1]), [1, 8000000])\n\
             y = torch.linear(torch.expand(torch.select(x, 1, 0), [8000000]), w)\n\
             x = torch.add(x, y)",
            "w = torch.expand(torch.ones([1, 1]), [1, 80])\n\
             y = torch.linear(torch.expand(torch.select(x, 1, 0), [80]), w)\n\
             x = torch.add(x, y)",
        ),
        case(
            "an axis is cut into parts",
            "evaluations",
            "y = torch.chunk(torch.expand(torch.ones([1]), [30000000]), 30000000)",
            "y = torch.chunk(torch.expand(torch.ones([1]), [30]), 30)",
        ),
        case(
            "a large view is overwritten",
            "beyond",
            "y = torch.ones([30, 1000000])\nfor i in range(100):\n  y = torch.zero_(y)",
            "y = torch.ones([3, 10])\nfor i in range(10):\n  y = torch.zero_(y)",
        ),
    ]
}

fn lists() -> Vec<Hostile> {
    let loops =
        |setup: &str, times: usize, body: &str| format!("{setup}\nfor i in range({times}):\n  {body}");
    vec![
        case(
            "lists are copied",
            "too much memory",
            &loops("l = range(300000)\nk = [0]", 60_000, "m = torch.list(l)\n  k = (k, m)"),
            &loops("l = range(30)\nk = [0]", 60, "m = torch.list(l)\n  k = (m, m)"),
        ),
        case(
            "the length of a list",
            "evaluations",
            &loops("l = range(400000)", 150_000, "n = torch.len(l)"),
            &loops("l = range(400000)", 1_500, "n = torch.len(l)"),
        ),
        case(
            "a member of a list",
            "evaluations",
            &loops("l = range(400000)", 150_000, "n = l[7]"),
            &loops("l = range(400000)", 1_500, "n = l[7]"),
        ),
        case(
            "lists are compared",
            "too much work",
            &loops("l = range(60000)\nk = range(60000)", 100_000, "n = torch.eq(l, k)"),
            &loops("l = range(60000)\nk = range(60000)", 10, "n = torch.eq(l, k)"),
        ),
        case(
            "lists are searched",
            "too much work",
            &loops("l = range(60000)", 100_000, "n = torch.__contains__(l, -1)"),
            &loops("l = range(60000)", 10, "n = torch.__contains__(l, -1)"),
        ),
        case(
            "a list is looped over",
            "evaluations",
            &loops("l = range(60000)", 100_000, "for j in l:\n    pass"),
            &loops("l = range(60)", 10, "for j in l:\n    pass"),
        ),
        case(
            "text is formatted",
            "too much",
            &loops(&format!("s = '{}'", "a".repeat(60_000)), 50_000, "n = torch.format(s, 1)"),
            &loops("s = 'a {} b'", 50, "n = torch.format(s, 1)"),
        ),
        case(
            "text doubles",
            "",
            &loops("s = 'aaaaaaaaaaaaaaaa'", 60, "s = torch.format('{}{}', s, s)"),
            "s = torch.format('{}{}', 'a', 'b')",
        ),
    ]
}

/// Returns archives that nest as deep as the reader allows, and one level deeper.
pub fn deepest() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    // A block, a call and an expression each count; the loops in a recursion have the largest frames.
    for loops in [0, 1, 30, 90] {
        all.push((format!("a recursion below {loops} loops"), nested_recursion(loops, true)));
    }
    for depth in [80, 90, 96, 100] {
        let chain = ".a".repeat(30);
        let expression = format!("{}a{chain}{}", "(".repeat(depth), format!("){chain}").repeat(depth));
        all.push((format!("{depth} chains in brackets"), before_a_layer(&format!("p = {expression}"))));
        let list = format!("{}0{}", "[".repeat(depth), "]".repeat(depth));
        all.push((format!("{depth} lists"), before_a_layer(&format!("l = {list}"))));
        let minus = format!("{}1", "-".repeat(depth));
        all.push((format!("{depth} signs"), before_a_layer(&format!("n = {minus}"))));
        let mut calls = "torch.add(1, ".repeat(depth);
        calls += "1";
        calls += &")".repeat(depth);
        all.push((format!("{depth} calls"), before_a_layer(&format!("n = {calls}"))));
        let pickle = [&b"\x80\x02("[..], &b"(".repeat(depth), b"K\x01", &b"t".repeat(depth), b"t."].concat();
        let mut nested = members("self, x: Tensor", "p = CONSTANTS.c0\nreturn x", &[]);
        nested[2] = Member::stored("constants.pkl", pickle);
        all.push((format!("{depth} tuples of a pickle"), zip(&nested)));
    }
    all
}
