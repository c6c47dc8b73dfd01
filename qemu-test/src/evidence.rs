// SPDX-License-Identifier: GPL-2.0-only
//! What the nodes of a failed scenario said last: printed with the verdict, because a machine that
//! runs tests for others keeps no logs for them.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Lines shown of each log.
const LINES: usize = 12;

/// Bytes shown of each line.
const WIDTH: usize = 240;

/// The ends of all logs below a directory, each line with the log's name; without what is said
/// for debugging only.
#[must_use]
pub fn tails(logs: &Path) -> Vec<String> {
    let entries = fs::read_dir(logs).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "log"));
    files.sort();
    files.iter().flat_map(|file| tail(file)).collect()
}

fn tail(file: &Path) -> Vec<String> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let bytes = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim_end);
    let telling = |line: &&str| !line.is_empty() && !line.contains(" debug ");
    let lines: Vec<&str> = lines.filter(telling).collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    last.iter()
        .map(|line| format!("{name}: {}", &line[..line.floor_char_boundary(WIDTH)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_all_logs_are_told_with_their_names() {
        let dir = std::env::temp_dir().join(format!("evidence-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let many: String = (1..=20)
            .map(|n| format!("line {n}\nn debug {n}\n"))
            .collect();
        fs::write(dir.join("n1.cmand.log"), many).unwrap();
        fs::write(dir.join("n2.cmand.log"), "ä".repeat(WIDTH)).unwrap();
        fs::write(dir.join("notes.txt"), "not a log\n").unwrap();
        let told = tails(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(told.len(), LINES + 1);
        assert_eq!(told[0], "n1.cmand: line 9");
        assert_eq!(told[LINES - 1], "n1.cmand: line 20");
        assert_eq!(told[LINES], format!("n2.cmand: {}", "ä".repeat(WIDTH / 2)));
        assert!(tails(Path::new("/nonexistent")).is_empty());
    }
}
