//! Lists of numbers, read without a JSON library in between. What is common is taken; everything else, mistakes included,
//! is left to [`super::read`], which says what is wrong.

use std::borrow::Cow;

use memchr::{memchr_iter, memchr2, memchr3, memrchr};
use serde_json::value::RawValue;

use super::read::MAX_RANK;
use crate::numbers::Number;

/// A JSON text whose long lists are kept apart: the JSON library would go through each of their bytes only to find the end.
pub struct Text<'j> {
    json: Cow<'j, [u8]>,
    /// Where in `json` a placeholder stands, and the list that was there.
    lists: Vec<(usize, &'j str)>,
}

/// Lists from this size on are kept apart, in bytes.
const LONG: usize = 1 << 10;
/// What stands for a list. No tensor is written like that, so it is never taken for one.
const PLACEHOLDER: &[u8] = b"{}";

impl<'j> Text<'j> {
    pub fn new(json: &'j [u8]) -> Text<'j> {
        let found = if json.len() > LONG { long_lists(json) } else { Vec::new() };
        if found.is_empty() {
            return Text { json: Cow::Borrowed(json), lists: Vec::new() };
        }
        let mut rest = Vec::with_capacity(LONG);
        let mut lists = Vec::with_capacity(found.len());
        let mut copied = 0;
        for (start, list) in found {
            rest.extend_from_slice(&json[copied..start]);
            lists.push((rest.len(), list));
            rest.extend_from_slice(PLACEHOLDER);
            copied = start + list.len();
        }
        rest.extend_from_slice(&json[copied..]);
        Text { json: Cow::Owned(rest), lists }
    }

    /// The text as the JSON library is to see it. What it borrows of it, [`Text::of`] knows again.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// What a value of this text is: the list that was kept apart, or what the text says.
    pub fn of<'t>(&'t self, value: &'t RawValue) -> &'t str {
        let place = value.get().as_ptr().addr().wrapping_sub(self.json.as_ptr().addr());
        match self.lists.binary_search_by_key(&place, |(place, _)| *place) {
            Ok(index) => self.lists[index].1,
            Err(_) => value.get(),
        }
    }
}

/// The long lists of numbers that are fields of an object, and where they begin.
fn long_lists(json: &[u8]) -> Vec<(usize, &str)> {
    let mut lists = Vec::new();
    let mut at = 0;
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'[', rest)) {
        at += found;
        if json[at] == b'"' {
            let Some(end) = end_of_string(json, at) else { break };
            at = end;
            continue;
        }
        // Looked at before anything is searched for, so that no byte is gone through for each list around it.
        if json[..at].trim_ascii_end().last() != Some(&b':') {
            at += 1;
            continue;
        }
        // Numbers and lists of them have none of these, nor is there a field before the next of them.
        let end = memchr3(b'"', b'{', b'}', &json[at..]).map_or(json.len(), |length| at + length);
        if let Some(last) = memrchr(b']', &json[at..end]) {
            let list = &json[at..=at + last];
            let is_whole = memchr_iter(b'[', list).count() == memchr_iter(b']', list).count();
            if is_whole && list.len() >= LONG {
                lists.extend(std::str::from_utf8(list).ok().map(|list| (at, list)));
            }
        }
        at = end;
    }
    lists
}

/// The place behind the quote that ends the string which begins at `start`.
fn end_of_string(json: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr2(b'"', b'\\', json.get(at..)?)?;
        match json[at] {
            b'"' => return Some(at + 1),
            // Whatever is escaped, it is not the end.
            _ => at += 2,
        }
    }
}

/// The elements of a list, row-major, and the sizes of the lists they came in. `None`: somebody else is to read it.
pub(super) fn read<T: Number>(json: &str) -> Option<(Vec<T>, Vec<usize>)> {
    let mut reader = Lists { text: json.as_bytes(), at: 0, sizes: [None; MAX_RANK], elements: Vec::new() };
    // Numbers in JSON seldom take less than five bytes, and a guess only has to be near.
    reader.elements.reserve(json.len() / 5);
    reader.skip_space();
    let rank = reader.list(0)?;
    reader.skip_space();
    (reader.at == reader.text.len()).then_some(())?;
    Some((reader.elements, reader.sizes[..rank].iter().map(|size| size.unwrap_or(0)).collect()))
}

struct Lists<'t, T> {
    text: &'t [u8],
    at: usize,
    /// Of the lists at each depth; all that stand side by side are of one size.
    sizes: [Option<usize>; MAX_RANK],
    elements: Vec<T>,
}

impl<T: Number> Lists<'_, T> {
    /// Reads a list and those in it; answers how deep they go.
    fn list(&mut self, depth: usize) -> Option<usize> {
        if depth >= MAX_RANK {
            return None;
        }
        self.expect(b'[')?;
        self.skip_space();
        let (size, rank) = match self.text.get(self.at)? {
            b'[' => self.lists(depth)?,
            // Empty lists show no axis behind them, which takes more thought than is worth it here.
            b']' => return None,
            _ => (self.numbers()?, depth + 1),
        };
        match self.sizes[depth] {
            Some(other) if other != size => None,
            _ => {
                self.sizes[depth] = Some(size);
                Some(rank)
            }
        }
    }

    fn lists(&mut self, depth: usize) -> Option<(usize, usize)> {
        let rank = self.list(depth + 1)?;
        let mut size = 1;
        while self.goes_on()? {
            if self.list(depth + 1)? != rank {
                return None;
            }
            size += 1;
        }
        Some((size, rank))
    }

    fn numbers(&mut self) -> Option<usize> {
        let before = self.elements.len();
        loop {
            let (number, length) = T::read(&self.text[self.at..])?;
            self.elements.push(number);
            self.at += length;
            if !self.goes_on()? {
                return Some(self.elements.len() - before);
            }
        }
    }

    /// Behind an item: whether another follows. Stands on it then, and behind the list otherwise.
    fn goes_on(&mut self) -> Option<bool> {
        self.skip_space();
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        match byte {
            b',' => {
                self.skip_space();
                Some(true)
            }
            b']' => Some(false),
            _ => None,
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.text.get(self.at) == Some(&byte)).then(|| self.at += 1)
    }

    fn skip_space(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn floats(json: &str) -> Option<(Vec<f32>, Vec<usize>)> {
        read(json)
    }

    #[test]
    fn lists_of_numbers_are_read_with_their_sizes() {
        assert_eq!(floats("[1, 2.5,\n-3e2]"), Some((vec![1.0, 2.5, -300.0], vec![3])));
        assert_eq!(floats(" [[1,2],[3,4] , [5,6]] "), Some((vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![3, 2])));
        assert_eq!(floats("[[[1]],[[2]]]"), Some((vec![1.0, 2.0], vec![2, 1, 1])));
    }

    #[test]
    fn everything_else_is_left_to_the_other_reader() {
        let too_deep = format!("{}1{}", "[".repeat(17), "]".repeat(17));
        let left = [
            "",
            "1",
            "[]",
            "[[]]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1",
            "[[1],[2,3]]",
            "[1,[2]]",
            "[[1],2]",
            "[1]]",
            "[1] [2]",
        ];
        for json in left.into_iter().chain(["[\"NaN\"]", "[null]", "[true]", "{}", "[1e400]", &too_deep]) {
            assert_eq!(floats(json), None, "{json}");
        }
    }

    #[derive(Deserialize)]
    struct Body<'j> {
        #[serde(borrow)]
        list: &'j RawValue,
        #[serde(borrow)]
        after: &'j RawValue,
    }

    /// What comes of both fields of a text, the long list and what is behind it.
    fn fields(json: &str) -> (usize, String, String) {
        let text = Text::new(json.as_bytes());
        let body: Body<'_> = serde_json::from_slice(text.json()).unwrap_or_else(|error| panic!("{error}: {json:.80}"));
        (text.json().len(), text.of(body.list).to_owned(), text.of(body.after).to_owned())
    }

    #[test]
    fn a_long_list_is_kept_apart_and_found_again() {
        let list = format!("[{}1.5]", "[1.5, 2], ".repeat(500));
        for (before, after) in [("", "7"), ("\"x\\\"[\": [1], ", "[1,2]"), ("\"[\": \"]\", ", "{\"a\": [1, \"]\"]}")] {
            let json = format!("{{{before}\"list\" : {list} , \"after\": {after}}}");
            let (length, found, behind) = fields(&json);
            assert!(length < 100, "{length}");
            assert_eq!((found, behind.as_str()), (list.clone(), after));
        }
        let twice = format!("{{\"list\": {list}, \"after\": {list}}}");
        assert!(fields(&twice) == (25, list.clone(), list));
    }

    #[test]
    fn lists_that_are_no_fields_or_hold_more_than_numbers_stay_where_they_are() {
        let long = "1,".repeat(1000);
        for list in [format!("[[\"a\"],[{long}1],[3],\"b\"]"), format!("[{{\"a\":1}},[{long}2]]"), "[1,2]".to_owned()] {
            let json = format!("{{\"list\": {list}, \"after\": 1}}");
            assert_eq!(fields(&json), (json.len(), list, "1".to_owned()));
        }
    }

    #[test]
    fn lists_in_lists_are_gone_through_once_however_many_there_are() {
        // Minutes, where each were looked into for itself.
        for deep in ["[", "[1],"] {
            let json = format!("{{\"list\": [{}", deep.repeat(2_000_000));
            assert_eq!(long_lists(json.as_bytes()), []);
            assert_eq!(long_lists(format!("[{json}").as_bytes()), []);
        }
    }

    #[test]
    fn what_is_no_json_is_still_none() {
        let long = "1,".repeat(1000);
        for json in
            [format!("{{\"list\": [{long}1"), format!("{{\"list\": [{long}1]], \"after\": 1}}"), "\"".repeat(3000)]
        {
            let text = Text::new(json.as_bytes());
            assert!(serde_json::from_slice::<Body<'_>>(text.json()).is_err());
        }
        let two = format!("{{\"list\": [{long}1],[2], \"after\": 1}}");
        let (_, list, _) = fields(&two);
        assert_eq!(floats(&list), None);
    }
}
