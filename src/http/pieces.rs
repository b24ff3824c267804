//! A response in memory. It is kept in pieces of one size, as one response fits into what another one leaves in the heap; a large block that is
//! freed would make glibc keep several more of its size (`M_MMAP_THRESHOLD` in mallopt(3)).

use std::io::{self, Write};

/// Size of a piece in bytes.
const PIECE: usize = 64 * 1024;

/// What is written, in pieces.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<Vec<u8>>);

impl Pieces {
    /// Bytes in all pieces.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        self.0.get(index).map(Vec::as_slice)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.last().is_none_or(|last| last.len() == PIECE) {
            self.0.push(Vec::with_capacity(PIECE));
        }
        let Some(last) = self.0.last_mut() else {
            return Ok(0);
        };
        let (taken, _) = bytes.split_at(bytes.len().min(PIECE - last.len()));
        last.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_kept_and_no_piece_grows(
            lengths in proptest::collection::vec(0..3 * PIECE, 0..8)
        ) {
            let mut pieces = Pieces::default();
            let mut all = Vec::new();
            for (number, length) in (0..).zip(lengths) {
                pieces.write_all(&vec![number; length]).unwrap();
                all.resize(all.len() + length, number);
            }
            prop_assert_eq!(pieces.len(), all.len());
            prop_assert!(pieces.0.iter().all(|piece| piece.capacity() == PIECE && !piece.is_empty()));
            prop_assert_eq!(pieces.0.concat(), all);
        }
    }
}
