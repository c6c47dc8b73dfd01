// SPDX-License-Identifier: GPL-2.0-only
//! Reading Rust source line by line, as far as rules of the tree need it.

/// The line without comments and the contents of one-line strings.
pub(crate) fn code(line: &str) -> String {
    let mut result = String::new();
    let mut chars = line.chars().peekable();
    let mut is_string = false;
    while let Some(c) = chars.next() {
        match (is_string, c) {
            (true, '\\') => drop(chars.next()),
            (_, '"') => is_string = !is_string,
            (true, _) => {}
            (false, '/') if chars.peek() == Some(&'/') => break,
            (false, c) => result.push(c),
        }
    }
    result
}
