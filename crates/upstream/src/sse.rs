//! Server-sent events (WHATWG HTML, 9.2.6), of which only `data` matters here. No I/O.

use std::collections::VecDeque;

/// Longest line and longest event, bytes.
pub(crate) const LONGEST: usize = 256 << 10;
/// Most bytes that say nothing between two events: comments, other fields.
const IDLE: usize = 1 << 20;

/// Bytes in, the data of events out.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    /// The last byte was a carriage return: a line feed after it ends no other line.
    after_return: bool,
    idle: usize,
    ready: VecDeque<String>,
}

impl Events {
    /// Takes bytes in; what is wrong with them ends the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => self.end_line()?,
                _ if self.line.len() >= LONGEST => return Err("a line without an end"),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// The next event's data.
    pub(crate) fn next(&mut self) -> Option<String> {
        self.ready.pop_front()
    }

    fn end_line(&mut self) -> Result<(), &'static str> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            if let Some(data) = self.data.take() {
                let text = String::from_utf8(data).map_err(|_| "an event that is no UTF-8")?;
                self.idle = 0;
                self.ready.push_back(text);
            }
            return Ok(());
        }
        if let Some(value) = line.strip_prefix(b"data") {
            let value = match value {
                [] => value,
                [b':', b' ', rest @ ..] | [b':', rest @ ..] => rest,
                _ => return self.ignore(line.len()),
            };
            let data = match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data
                }
                none => none.insert(Vec::new()),
            };
            if data.len() + value.len() > LONGEST {
                return Err("an event without an end");
            }
            data.extend_from_slice(value);
            return Ok(());
        }
        self.ignore(line.len())
    }

    fn ignore(&mut self, bytes: usize) -> Result<(), &'static str> {
        self.idle += bytes;
        if self.idle > IDLE {
            return Err("nothing but comments");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, &'static str> {
        let mut events = Events::default();
        let mut all = Vec::new();
        for piece in pieces {
            events.push(piece)?;
            all.extend(std::iter::from_fn(|| events.next()));
        }
        Ok(all)
    }

    #[test]
    fn events_are_read_whatever_ends_their_lines() {
        let text = ": ping\r\n\r\ndata: {\"a\":1}\r\n\r\ndata:b\rdata: c\r\revent: x\nid: 7\ndata\n\ndata: [DONE]\n\n";
        let events = read(&[text.as_bytes()]).unwrap();
        assert_eq!(events, ["{\"a\":1}", "b\nc", "", "[DONE]"]);
    }

    #[test]
    fn what_has_no_end_is_given_up() {
        let endless = vec![b'x'; LONGEST + 2];
        assert_eq!(read(&[&endless]), Err("a line without an end"));
        let line = [b"data: ".as_slice(), &vec![b'y'; LONGEST - 10], b"\n"].concat();
        assert_eq!(read(&[&line, &line]), Err("an event without an end"));
        let comment = [b":".as_slice(), &vec![b'z'; 1 << 16], b"\n"].concat();
        let many: Vec<&[u8]> = vec![&comment; 20];
        assert_eq!(read(&many), Err("nothing but comments"));
        assert_eq!(read(&[b"data: \xff\n\n"]), Err("an event that is no UTF-8"));
    }

    proptest! {
        #[test]
        fn where_the_network_cuts_makes_no_difference(
            text in "(data: [a-z\u{e4}\u{1f600}]{0,9}(\r\n|\n|\r)|(\r\n|\n|\r)|: ping\n){0,20}",
            cut in 1usize..7,
        ) {
            let whole = read(&[text.as_bytes()]);
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(cut).collect();
            prop_assert_eq!(read(&pieces), whole);
        }

        #[test]
        fn no_bytes_bring_it_down(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = read(&[&bytes]);
        }
    }
}
