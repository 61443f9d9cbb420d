//! What a WebP file's frames say of their size, before the decoder believes them.

use nexus_guest::Error;

use crate::decode::file::File;

/// Checks the lossy frames, whose own header decides what the decoder allocates, whatever the file's header says.
pub(crate) fn check_frame_sizes(file: &File<'_>) -> Result<(), Error> {
    check_chunks(file, file.bytes.get(12..).unwrap_or_default(), false)
}

fn check_chunks(file: &File<'_>, mut rest: &[u8], in_animation: bool) -> Result<(), Error> {
    while let Some((&[a, b, c, d, e, f, g, h], tail)) = rest.split_first_chunk() {
        let size = u32::from_le_bytes([e, f, g, h]) as usize;
        let data = tail.get(..size).unwrap_or(tail);
        match &[a, b, c, d] {
            // An animation's frame: 16 bytes of its own, then chunks.
            b"ANMF" if !in_animation => check_chunks(file, data.get(16..).unwrap_or_default(), true)?,
            b"VP8 " => {
                // RFC 6386, 9.1: three bytes of frame tag, three of start code, then 14 bits each, and 2 for upscaling.
                if let Some(&[a, b, c, d]) = data.get(6..10) {
                    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
                    file.check_size(side(a, b), side(c, d))?;
                }
            }
            _ => {}
        }
        // Chunks begin at even places.
        rest = tail.get(size.saturating_add(size & 1)..).unwrap_or_default();
    }
    Ok(())
}
