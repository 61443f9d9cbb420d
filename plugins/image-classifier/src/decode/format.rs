//! What a file is, by its first bytes: content types and endings are often wrong.

/// A format this plugin reads, or what the file seems to be instead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Jpeg,
    Png,
    Webp,
    Gif,
    Bmp,
    Other(&'static str),
}

impl Format {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::Webp => "WebP",
            Format::Gif => "GIF",
            Format::Bmp => "BMP",
            Format::Other(what) => what,
        }
    }
}

/// Looks at the file's beginning.
pub(crate) fn of(file: &[u8]) -> Format {
    match file {
        [] => Format::Other("empty"),
        [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Format::Png,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Format::Webp,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Format::Gif,
        [b'B', b'M', _, _, _, _, _, _, _, _, ..] => Format::Bmp,
        [b'%', b'P', b'D', b'F', ..] => Format::Other("a PDF document"),
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Format::Other("a TIFF image"),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand {
            [b'a', b'v', b'i', ..] => Format::Other("an AVIF image"),
            [b'h', b'e', ..] | [b'm', b'i', b'f', b'1', ..] => Format::Other("a HEIC image"),
            _ => Format::Other("a video"),
        },
        [0, 0, 1 | 2, 0, ..] => Format::Other("an icon file"),
        [0x1f, 0x8b, ..] | [b'P', b'K', 3, 4, ..] => Format::Other("a compressed archive"),
        _ => Format::Other(of_text(file)),
    }
}

fn of_text(file: &[u8]) -> &'static str {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let start: Vec<u8> = file.trim_ascii_start().iter().take(512).map(u8::to_ascii_lowercase).collect();
    let contains = |word: &[u8]| start.windows(word.len()).any(|window| window == word);
    if contains(b"<!doctype html") || contains(b"<html") || contains(b"<head") {
        "an HTML page"
    } else if start.starts_with(b"<") && contains(b"<svg") {
        "an SVG drawing"
    } else if start.starts_with(b"<") {
        "an XML document"
    } else if start.starts_with(b"{") || start.starts_with(b"[") {
        "a JSON text"
    } else if start.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..)) {
        "a text"
    } else {
        "of an unknown format"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_beginning() {
        for (file, expected) in [
            (&b""[..], "empty"),
            (b" \n<!DOCTYPE HTML><html>", "an HTML page"),
            (b"<?xml version='1.0'?><svg>", "an SVG drawing"),
            (b"{\"error\": 1}", "a JSON text"),
            (b"Not found", "a text"),
            (b"%PDF-1.7", "a PDF document"),
            (b"\0\0\0\x20ftypavif", "an AVIF image"),
            (b"\0\0\0\x20ftypheic", "a HEIC image"),
            (b"II*\0", "a TIFF image"),
            (b"\x00\x01\x02\x03", "of an unknown format"),
            (b"BM", "a text"),
        ] {
            assert_eq!(of(file), Format::Other(expected), "{file:?}");
        }
    }
}
