//! One JSON value a line.

use memchr::memchr;

use super::json::{read_flat, read_row};
use super::{Begun, Chunks, Stopped};
use crate::batch::Feed;
use crate::batch::rows::Collector;

/// Reads lines to the end. Blank ones are passed over; one of more than `most` bytes is a bad row.
pub(super) fn read(
    mut feed: Feed,
    most: usize,
    rows: &mut Collector<'_>,
    chunks: &mut Chunks<'_>,
) -> Result<(), Stopped> {
    chunks.begin(Begun { has_ids: true });
    // The start of a line whose end is in another piece.
    let mut start: Vec<u8> = Vec::new();
    let mut is_too_long = false;
    loop {
        if !rows.is_empty() && feed.is_idle() {
            // Whoever sends row by row is answered row by row.
            chunks.send(rows)?;
        }
        let Some(piece) = feed.take()? else { break };
        let mut rest = &piece[..];
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            if is_too_long || start.len() + line.len() > most {
                rows.bad(too_long(most));
                is_too_long = false;
            } else if start.is_empty() {
                read_line(line, rows);
            } else {
                start.extend_from_slice(line);
                read_line(&start, rows);
            }
            start.clear();
            if rows.is_full() {
                chunks.send(rows)?;
            }
        }
        is_too_long = is_too_long || start.len() + rest.len() > most;
        if is_too_long {
            start = Vec::new();
        } else {
            start.extend_from_slice(rest);
        }
    }
    if is_too_long {
        rows.bad(too_long(most));
    } else {
        read_line(&start, rows);
    }
    Ok(())
}

fn too_long(most: usize) -> String {
    format!("the line is longer than {most} bytes (--max-body-bytes)")
}

fn read_line(line: &[u8], rows: &mut Collector<'_>) {
    if read_flat(line, rows) {
        return rows.good(1);
    }
    let line = line.trim_ascii();
    if line.is_empty() {
        return;
    }
    if let Err(error) = read_row(line, rows) {
        rows.bad(error.message);
    }
}
