//! Sound and damaged TorchScript archives, written by hand so that tests need no PyTorch.

/// A member of a zip archive.
pub struct Member {
    /// The name below the archive's folder.
    pub name: String,
    /// The bytes of the file, uncompressed.
    pub content: Vec<u8>,
    /// The stored bytes, if they are not the content itself.
    pub packed: Option<Vec<u8>>,
    /// The number of the compression method.
    pub method: u16,
    /// The size after decompression, as the archive declares it.
    pub declared: u32,
}

impl Member {
    /// Returns a member that is not compressed.
    pub fn stored(name: &str, content: impl Into<Vec<u8>>) -> Self {
        let content = content.into();
        let declared = content.len() as u32;
        Self { name: name.to_owned(), content, packed: None, method: 0, declared }
    }

    /// Returns a compressed member whose declared size is `declared`.
    pub fn deflated(name: &str, content: &[u8], declared: u32) -> Self {
        use std::io::Write;
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(content).expect("writing to memory");
        let packed = encoder.finish().expect("writing to memory");
        Self { name: name.to_owned(), content: content.to_vec(), packed: Some(packed), method: 8, declared }
    }
}

/// Returns a zip archive of these members, in the folder `policy`.
pub fn zip(members: &[Member]) -> Vec<u8> {
    zip_with_aliases(members, &[])
}

/// Returns a zip archive of these members. The directory also names some of them, by their index, a second
/// time, so that several entries share the same bytes.
pub fn zip_with_aliases(members: &[Member], aliases: &[(&str, usize)]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut archive = Vec::new();
    let mut directory = Vec::new();
    for member in members {
        let name = format!("policy/{}", member.name);
        let packed = member.packed.as_ref().unwrap_or(&member.content);
        let mut crc = flate2::Crc::new();
        crc.update(&member.content);
        let header = archive.len() as u32;
        let mut common = Vec::new();
        common.extend([20, 0, 0, 0]);
        common.extend(member.method.to_le_bytes());
        common.extend([0; 4]);
        common.extend(crc.sum().to_le_bytes());
        common.extend((packed.len() as u32).to_le_bytes());
        common.extend(member.declared.to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        archive.extend(b"PK\x03\x04");
        archive.extend(&common);
        archive.extend(name.bytes());
        archive.extend(packed);
        entries.push((name, common, header));
    }
    for &(name, index) in aliases {
        let (_, mut common, header) = entries[index].clone();
        let name = format!("policy/{name}");
        let length = common.len();
        common[length - 4..length - 2].copy_from_slice(&(name.len() as u16).to_le_bytes());
        entries.push((name, common, header));
    }
    for (name, common, header) in &entries {
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(common);
        directory.extend([0; 10]);
        directory.extend(header.to_le_bytes());
        directory.extend(name.bytes());
    }
    let start = archive.len() as u32;
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend((entries.len() as u16).to_le_bytes());
    archive.extend((entries.len() as u16).to_le_bytes());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(start.to_le_bytes());
    archive.extend([0; 2]);
    archive
}

/// A constant tensor of single-precision numbers.
pub struct Constant {
    /// The size of each dimension.
    pub shape: Vec<usize>,
    /// The elements in C order.
    pub values: Vec<f32>,
}

/// Returns pseudo-random numbers between -0.5 and 0.5. They depend on `shape` and `seed` only.
pub fn weights(shape: &[usize], seed: u32) -> Constant {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let values = (0..shape.iter().product::<usize>())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect();
    Constant { shape: shape.to_vec(), values }
}

/// Returns a pickle of an object of class `__torch__.M` without attributes.
fn module_pickle() -> Vec<u8> {
    b"\x80\x02c__torch__\nM\nq\x00)\x81}(ub.".to_vec()
}

pub(crate) fn integer(value: usize) -> Vec<u8> {
    let mut bytes = vec![b'J'];
    bytes.extend((value as i32).to_le_bytes());
    bytes
}

pub(crate) fn text(value: &str) -> Vec<u8> {
    let mut bytes = vec![b'X'];
    bytes.extend((value.len() as u32).to_le_bytes());
    bytes.extend(value.bytes());
    bytes
}

/// Returns a pickle of a tuple of tensors.
fn constants_pickle(constants: &[Constant]) -> Vec<u8> {
    let mut pickle = b"\x80\x02(".to_vec();
    for (key, constant) in constants.iter().enumerate() {
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend(text("storage"));
        pickle.extend(b"ctorch\nFloatStorage\n");
        pickle.extend(text(&key.to_string()));
        pickle.extend(text("cpu"));
        pickle.extend(integer(constant.values.len()));
        pickle.extend(b"tQ");
        pickle.extend(integer(0));
        pickle.push(b'(');
        constant.shape.iter().for_each(|&size| pickle.extend(integer(size)));
        pickle.extend(b"t(");
        for axis in 0..constant.shape.len() {
            pickle.extend(integer(constant.shape[axis + 1..].iter().product()));
        }
        pickle.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(b"t.");
    pickle
}

/// Returns the members of a frozen module whose `forward` has this body (unindented lines).
pub fn members(signature: &str, body: &str, constants: &[Constant]) -> Vec<Member> {
    let body: String = body.lines().map(|line| format!("    {line}\n")).collect();
    let source = format!("class M(Module):\n  __parameters__ = []\n  def forward({signature}):\n{body}");
    members_of_source(&source, constants)
}

/// Returns the members of an archive with this source as `__torch__.py`.
pub fn members_of_source(source: &str, constants: &[Constant]) -> Vec<Member> {
    let mut members = vec![
        Member::stored("data.pkl", module_pickle()),
        Member::deflated("code/__torch__.py", source.as_bytes(), source.len() as u32),
        Member::stored("constants.pkl", constants_pickle(constants)),
    ];
    for (key, constant) in constants.iter().enumerate() {
        let bytes: Vec<u8> = constant.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        members.push(Member::stored(&format!("constants/{key}"), bytes));
    }
    members
}

/// Returns a frozen module whose `forward(self, x)` has this body.
pub fn archive(body: &str, constants: &[Constant]) -> Vec<u8> {
    zip(&members("self, x: Tensor", body, constants))
}

/// Returns a small multilayer perceptron: four inputs, eight units, three outputs.
pub fn perceptron() -> Vec<u8> {
    archive(
        "_0 = torch.tanh(torch.linear(x, CONSTANTS.c0, CONSTANTS.c1))\n\
         return torch.linear(_0, CONSTANTS.c2, CONSTANTS.c3)",
        &[weights(&[8, 4], 1), weights(&[8], 2), weights(&[3, 8], 3), weights(&[3], 4)],
    )
}
