//! MessagePack by hand, so that it can also be wrong.

/// Something to be packed.
#[derive(Debug, Clone)]
pub enum Pack {
    Nil,
    Bool(bool),
    Whole(u64),
    Negative(i64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Pack>),
    Map(Vec<(Pack, Pack)>),
    /// As it is, whatever it is.
    Raw(Vec<u8>),
}

/// A text.
pub fn text(text: &str) -> Pack {
    Pack::Text(text.to_owned())
}

/// Bytes.
pub fn bytes(bytes: &[u8]) -> Pack {
    Pack::Bytes(bytes.to_vec())
}

/// 128 bits, as the product packs them: big-endian bytes.
pub fn wide(bits: u128) -> Pack {
    Pack::Bytes(bits.to_be_bytes().to_vec())
}

/// A map with texts as keys: the fields of a message.
pub fn fields(fields: Vec<(&str, Pack)>) -> Pack {
    let fields = fields.into_iter().map(|(key, value)| (text(key), value));
    Pack::Map(fields.collect())
}

/// One variant with its fields in order.
pub fn variant(name: &str, fields: Vec<Pack>) -> Pack {
    Pack::Map(vec![(text(name), Pack::List(fields))])
}

fn long(out: &mut Vec<u8>, marker: u8, length: usize) {
    out.push(marker);
    out.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
}

impl Pack {
    /// The bytes. Numbers and lengths are are not always in their shortest form, which is as good.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Pack::Nil => out.push(0xc0),
            Pack::Bool(is) => out.push(if *is { 0xc3 } else { 0xc2 }),
            Pack::Whole(number @ 0..128) => out.push(u8::try_from(*number).unwrap()),
            Pack::Whole(number) => {
                out.push(0xcf);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Pack::Negative(number) => {
                out.push(0xd3);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Pack::Text(text) => {
                long(out, 0xdb, text.len());
                out.extend_from_slice(text.as_bytes());
            }
            Pack::Bytes(bytes) => {
                match u8::try_from(bytes.len()) {
                    // What stands for a number of 128 bits must be short.
                    Ok(length) => out.extend_from_slice(&[0xc4, length]),
                    Err(_) => long(out, 0xc6, bytes.len()),
                }
                out.extend_from_slice(bytes);
            }
            Pack::List(items) => {
                match u8::try_from(items.len()) {
                    Ok(count @ 0..16) => out.push(0x90 | count),
                    _ => long(out, 0xdd, items.len()),
                }
                items.iter().for_each(|item| item.put(out));
            }
            Pack::Map(entries) => {
                long(out, 0xdf, entries.len());
                for (key, value) in entries {
                    key.put(out);
                    value.put(out);
                }
            }
            Pack::Raw(bytes) => out.extend_from_slice(bytes),
        }
    }
}
