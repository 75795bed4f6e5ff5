//! Places of the configuration file: kept beside what was read from them, so that a fault which only the live
//! catalogs show is still told with its line underlined.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::file;

/// The file's name and text.
#[derive(Debug)]
pub struct SourceText {
    /// The file's name.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// A part of the file. Any two places are equal: where something stands does not change what it means.
#[derive(Clone)]
pub struct Place {
    source: Arc<SourceText>,
    span: Range<usize>,
}

impl Place {
    /// This part of the text, in bytes.
    pub fn new(source: Arc<SourceText>, span: Range<usize>) -> Place {
        Place { source, span }
    }

    /// The bytes of the text.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// File, line and column, and the line with this part underlined, for people.
    pub fn show(&self) -> String {
        let shown = file::excerpt(&self.source.file, &self.source.text, &self.span);
        format!("{}\n{}", shown.location, shown.lines)
    }

    /// The place of a part of the text that stands here as a value.
    fn within(&self, value: &str, part: &Range<usize>) -> Place {
        let raw = self.source.text.get(self.span.clone()).unwrap_or_default();
        // Where signs are escaped the value is not what is written, and all of it is shown.
        let Some(offset) = raw.find(value) else { return self.clone() };
        let start = self.span.start + offset;
        let span = start + part.start..start + part.end.max(part.start);
        Place { source: self.source.clone(), span }
    }
}

impl PartialEq for Place {
    fn eq(&self, _: &Place) -> bool {
        true
    }
}

impl Eq for Place {}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("place")
    }
}

/// A text of the file and where it stands: an expression, or a name.
#[derive(Clone, PartialEq, Eq)]
pub struct Placed {
    /// The text.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

impl Placed {
    /// The place of a part of the text, in bytes.
    pub fn part(&self, part: &Range<usize>) -> Place {
        self.place.within(&self.text, part)
    }
}

impl fmt::Debug for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}
