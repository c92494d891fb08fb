//! External data representation (RFC 4506), as far as NFS needs it.

/// Bytes under construction.
#[derive(Debug, Default, Clone)]
pub(crate) struct Packer(pub(crate) Vec<u8>);

impl Packer {
    pub(crate) fn u32(mut self, value: u32) -> Packer {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Packer {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// A present or absent number.
    pub(crate) fn optional(self, value: Option<u32>) -> Packer {
        match value {
            Some(value) => self.u32(1).u32(value),
            None => self.u32(0),
        }
    }

    /// Bytes without a length.
    pub(crate) fn fixed(mut self, bytes: &[u8]) -> Packer {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Bytes with their length: strings and handles too.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Packer {
        let length = u32::try_from(bytes.len()).expect("a length");
        self.u32(length).fixed(bytes)
    }
}

/// A reply, read from its start. Panics where it ends too early: the server is under test, too.
#[derive(Debug, Clone)]
pub(crate) struct Unpacker {
    bytes: Vec<u8>,
    at: usize,
}

impl Unpacker {
    pub(crate) fn new(bytes: Vec<u8>) -> Unpacker {
        Unpacker { bytes, at: 0 }
    }

    pub(crate) fn fixed(&mut self, count: usize) -> Vec<u8> {
        let found = self.bytes.get(self.at..self.at + count);
        let found = found.expect("a reply that is long enough").to_vec();
        self.at += count.next_multiple_of(4);
        found
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.fixed(4).try_into().expect("four bytes"))
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.fixed(8).try_into().expect("eight bytes"))
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.u32() != 0
    }

    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let count = self.u32() as usize;
        self.fixed(count)
    }
}
