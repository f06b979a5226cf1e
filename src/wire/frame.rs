//! Framing: a tag byte, a length of four bytes that counts itself, and a body.

use super::cursor::{DecodeError, Fault};

/// Tag and length, in front of every body.
pub const HEADER: usize = 5;

/// The longest body: PostgreSQL allocates no more than 1 GiB − 1 bytes for a message (`MaxAllocSize`).
pub const MAX_BODY: usize = 0x3fff_ffff - 4;

/// One message, complete on the wire, of which the reader kept the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message type.
    pub tag: u8,
    /// The body's length in bytes.
    pub len: usize,
    /// The body, or the first bytes of one longer than the reader keeps.
    pub head: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The body, where the reader kept all of it.
    pub fn whole(self) -> Result<&'a [u8], DecodeError> {
        if self.head.len() == self.len {
            Ok(self.head)
        } else {
            Err(DecodeError { fault: Fault::Length(self.len as i64), field: "message length", offset: 1 })
        }
    }
}

/// Finds messages in a byte stream that comes in pieces of any size.
///
/// A message that lies within one piece is borrowed from it. Of one that does not, at most `keep` bytes
/// are copied and the rest is passed over by its length, so that memory does not grow with the message.
#[derive(Debug)]
pub struct FrameReader {
    keep: usize,
    /// The beginning of a message that started in an earlier piece: header, then up to `keep` bytes.
    carried: Vec<u8>,
    /// Bytes of that message still to come behind what is carried.
    to_skip: usize,
    /// What is carried was handed out by the last call.
    delivered: bool,
}

impl FrameReader {
    /// A reader at the start of a message, which keeps up to `keep` bytes of every body.
    pub fn new(keep: usize) -> FrameReader {
        FrameReader { keep, carried: Vec::new(), to_skip: 0, delivered: false }
    }

    /// Takes the next message that ends in `bytes` off their front; `None` once all of them are used up.
    ///
    /// # Errors
    /// A length below 4 or beyond [`MAX_BODY`]: the stream has no message borders any more, and the reader
    /// is not to be used further.
    #[inline]
    pub fn next<'f, 'b: 'f>(&'f mut self, bytes: &mut &'b [u8]) -> Result<Option<Frame<'f>>, DecodeError> {
        if self.delivered {
            self.carried.clear();
            self.delivered = false;
        }
        if self.carried.is_empty() {
            if let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
                let len = body_len(header)?;
                if let Some((body, rest)) = rest.split_at_checked(len) {
                    *bytes = rest;
                    let head = body.get(..self.keep).unwrap_or(body);
                    return Ok(Some(Frame { tag: header[0], len, head }));
                }
            }
            if bytes.is_empty() {
                return Ok(None);
            }
        }
        self.carry(bytes)
    }

    /// The stream is between two messages.
    pub fn at_boundary(&self) -> bool {
        self.delivered || self.carried.is_empty()
    }

    /// A message that is not within one piece: copies what is kept of it and counts down the rest.
    fn carry(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame<'_>>, DecodeError> {
        let missing = HEADER.saturating_sub(self.carried.len());
        if missing > 0 {
            self.append(bytes, missing);
        }
        let Some(header) = self.carried.first_chunk::<HEADER>() else { return Ok(None) };
        let (tag, len) = (header[0], body_len(header)?);
        let kept = self.carried.len() - HEADER;
        let wanted = len.min(self.keep);
        if missing > 0 {
            self.to_skip = len - wanted;
        }
        self.append(bytes, wanted - kept);
        let skipped = self.to_skip.min(bytes.len());
        if self.carried.len() < HEADER + wanted {
            return Ok(None);
        }
        *bytes = bytes.split_at(skipped).1;
        self.to_skip -= skipped;
        if self.to_skip > 0 {
            return Ok(None);
        }
        self.delivered = true;
        Ok(self.carried.split_at_checked(HEADER).map(|(_, head)| Frame { tag, len, head }))
    }

    fn append(&mut self, bytes: &mut &[u8], at_most: usize) {
        let (taken, rest) = bytes.split_at(at_most.min(bytes.len()));
        self.carried.extend_from_slice(taken);
        *bytes = rest;
    }
}

/// The length of the body behind a header.
///
/// # Errors
/// If it is below 4 or beyond [`MAX_BODY`].
pub fn body_len(header: &[u8; HEADER]) -> Result<usize, DecodeError> {
    let [_, length @ ..] = header;
    let length = i32::from_be_bytes(*length);
    match usize::try_from(length).ok().and_then(|length| length.checked_sub(4)) {
        Some(len) if len <= MAX_BODY => Ok(len),
        _ => Err(DecodeError { fault: Fault::Length(length.into()), field: "message length", offset: 1 }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(messages: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (tag, body) in messages {
            bytes.push(*tag);
            bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            bytes.extend_from_slice(body);
        }
        bytes
    }

    fn read(keep: usize, pieces: &[&[u8]]) -> Vec<(u8, usize, Vec<u8>)> {
        let mut reader = FrameReader::new(keep);
        let mut frames = Vec::new();
        for mut piece in pieces.iter().copied() {
            while let Some(frame) = reader.next(&mut piece).unwrap() {
                frames.push((frame.tag, frame.len, frame.head.to_vec()));
            }
            assert!(piece.is_empty());
        }
        assert!(reader.at_boundary());
        frames
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_messages(
            messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            cuts in prop::collection::vec(0usize..600, 0..20),
            keep in 0usize..50,
        ) {
            let bytes = encode(&messages);
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&cut| cut <= bytes.len()).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            let expected: Vec<_> = messages
                .iter()
                .map(|(tag, body)| (*tag, body.len(), body[..keep.min(body.len())].to_vec()))
                .collect();
            prop_assert_eq!(read(keep, &pieces), expected);
        }
    }

    #[test]
    fn a_message_of_one_gibibyte_costs_no_memory() {
        let mut reader = FrameReader::new(16);
        let mut header: &[u8] = &[b'd', 0x3f, 0xff, 0xff, 0xff];
        assert_eq!(reader.next(&mut header), Ok(None));
        let piece = vec![7; 1 << 20];
        let mut left = MAX_BODY;
        while left > piece.len() {
            assert_eq!(reader.next(&mut piece.as_slice()), Ok(None));
            assert!(!reader.at_boundary());
            left -= piece.len();
        }
        let frame = reader.next(&mut &piece[..left]).unwrap().unwrap();
        assert_eq!((frame.tag, frame.len, frame.head), (b'd', MAX_BODY, &[7; 16][..]));
        assert!(frame.whole().is_err());
        assert!(reader.carried.capacity() <= 64);
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for length in [i32::MIN, -1, 0, 3, 0x4000_0000, i32::MAX] {
            let mut bytes = vec![b'd'];
            bytes.extend_from_slice(&length.to_be_bytes());
            for split in 0..bytes.len() {
                let mut reader = FrameReader::new(8);
                let (mut first, mut second) = bytes.split_at(split);
                assert_eq!(reader.next(&mut first), Ok(None));
                let error = reader.next(&mut second).unwrap_err();
                assert_eq!(error.fault, Fault::Length(length.into()));
            }
        }
    }
}
