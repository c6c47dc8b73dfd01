// SPDX-License-Identifier: GPL-2.0-only
//! `cluster.toml` with any content.

use cluster_rt::config;

/// One file.
///
/// # Panics
/// A fault was found.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match config::parse(text) {
        Ok(config) => {
            let votes: u32 = config.nodes.iter().map(|node| node.votes).sum();
            assert!(config.quorum() * 2 > votes, "two halves with quorum");
            for node in &config.nodes {
                let found = config.node(node.id).expect("a node has its own id");
                assert_eq!(found.name, node.name, "two nodes with one id");
            }
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "refused without a reason");
            assert!(
                !crate::is_planted() || mistakes.len() < 6,
                "planted: many mistakes"
            );
            for mistake in mistakes {
                assert!(!mistake.to_string().is_empty());
            }
        }
    }
}

/// Files that are right, and one that is not.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let head = "[cluster]\nname = \"alpha\"\n";
    let node = |id: u32, more: &str| {
        format!("[[node]]\nid = {id}\nname = \"n{id}\"\naddress = \"192.0.2.{id}\"\n{more}")
    };
    let device = |name: &str| {
        format!(
            "[[fence_device]]\nname = \"{name}\"\nagent = \"fence_apc\"\n\
             options = {{ ip = \"192.0.2.60\", username = \"x\", password = \"y\" }}\n"
        )
    };
    let method = "[[node.fence]]\nname = \"power\"\n\
                  devices = [ { device = \"pdu\", plug = \"1\", action = \"off\" } ]\n";
    let plain: String = (1..=3).map(|id| node(id, "votes = 1\n")).collect();
    let fenced: String = (1..=2).map(|id| node(id, method)).collect();
    vec![
        format!("{head}{plain}").into_bytes(),
        format!("{head}detection_ms = 2000\n{fenced}{}", device("pdu")).into_bytes(),
        format!("{head}{}{}", node(1, "votes = 0\n"), node(1, "")).into_bytes(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_right_but_for_the_last() {
        let texts = seeds();
        let right = |text: &Vec<u8>| config::parse(std::str::from_utf8(text).unwrap());
        for text in &texts[..texts.len() - 1] {
            assert!(right(text).is_ok(), "{:?}", right(text));
        }
        assert!(right(texts.last().unwrap()).is_err());
    }
}
