//! Rows counted in a host's answers as they come.

use memchr::{memchr_iter, memchr2_iter};

use crate::batch::Format;

/// Counts rows by their ends, in pieces that end anywhere.
pub(super) enum RowCount {
    Lines,
    Records {
        /// The first record names the columns.
        had_header: bool,
        is_quoted: bool,
    },
    /// Packed, so that nothing is to be seen of them.
    Unseen,
}

impl RowCount {
    pub(super) fn of(format: Format) -> RowCount {
        match format {
            Format::Ndjson => RowCount::Lines,
            Format::Csv => RowCount::Records { had_header: false, is_quoted: false },
            Format::Parquet => RowCount::Unseen,
        }
    }

    /// Rows that end in this piece.
    pub(super) fn add(&mut self, piece: &[u8]) -> usize {
        match self {
            RowCount::Lines => memchr_iter(b'\n', piece).count(),
            RowCount::Records { had_header, is_quoted } => {
                let mut ends = 0;
                // A quote in a cell is written twice, which is to end the quotes and begin them again.
                for place in memchr2_iter(b'"', b'\n', piece) {
                    match piece[place] {
                        b'"' => *is_quoted = !*is_quoted,
                        _ if *is_quoted => {}
                        _ => ends += usize::from(std::mem::replace(had_header, true)),
                    }
                }
                ends
            }
            RowCount::Unseen => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(format: Format, text: &str) -> Vec<usize> {
        let whole = RowCount::of(format).add(text.as_bytes());
        let mut count = RowCount::of(format);
        let byte_by_byte = text.as_bytes().chunks(1).map(|byte| count.add(byte)).sum();
        vec![whole, byte_by_byte]
    }

    #[test]
    fn rows_are_counted_however_they_are_cut() {
        assert_eq!(counted(Format::Ndjson, "{\"row\":0}\n{\"row\":1}\n{\"ro"), [2, 2]);
        assert_eq!(counted(Format::Csv, "row,y,error\n0,1,\n1,,\"no \"\"y\"\",\nas it is\"\n2,"), [2, 2]);
        assert_eq!(counted(Format::Csv, "row,error\n"), [0, 0]);
        assert_eq!(counted(Format::Parquet, "PAR1\n\n"), [0, 0]);
    }
}
