//! An image file while it is read, and what is said of it where it cannot be: what came, and what is taken.

use std::fmt::Display;

use nexus_guest::Error;

/// What this plugin reads.
pub(crate) const TAKEN: &str = "JPEG (baseline or progressive, 8 bits), PNG, WebP, GIF or BMP";

/// The file, its format known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) format: &'static str,
    /// Its name in messages: "the request body (image/png)".
    pub(crate) origin: &'a str,
    /// Largest picture, width times height.
    pub(crate) max_pixels: u64,
}

impl File<'_> {
    /// Refuses a picture by what its header says, before anything is allocated for its pixels.
    pub(crate) fn check_size(&self, width: u32, height: u32) -> Result<(), Error> {
        if width == 0 || height == 0 {
            return Err(self.damaged(&format!("its size is {width}×{height}")));
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            let limit = self.max_pixels as f64 / 1e6;
            return Err(Error::invalid_input(format!(
                "{} is too large: {width}×{height} is over the limit of {limit} million pixels; send a smaller picture",
                self.origin
            )));
        }
        Ok(())
    }

    pub(crate) fn too_much_memory(&self, bytes: u64) -> Error {
        Error::invalid_input(format!(
            "{} needs {} MiB to decode, more than this plugin may have; send a smaller picture",
            self.origin,
            bytes >> 20
        ))
    }

    pub(crate) fn damaged(&self, error: &dyn Display) -> Error {
        Error::invalid_input(format!(
            "{} cannot be decoded as {}, its {} bytes are damaged or incomplete: {error}",
            self.origin,
            self.format,
            self.bytes.len()
        ))
    }

    pub(crate) fn unsupported(&self, error: &dyn Display) -> Error {
        Error::invalid_input(format!(
            "{} is a {} of a kind this plugin does not read: {error}; send {TAKEN}",
            self.origin, self.format
        ))
    }
}
