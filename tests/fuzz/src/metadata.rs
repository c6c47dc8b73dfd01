// SPDX-License-Identifier: GPL-2.0-only
//! What a fence agent says of itself.

use fence_agent::Metadata;

/// One text.
///
/// # Panics
/// A fault was found.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Metadata::parse(text) {
        Ok(metadata) => {
            let action = metadata.default_action();
            let _ = (metadata.knows(action), metadata.is_fabric());
            let _ = metadata.complaints(&cluster_rt::config::Options::default());
            assert!(
                !crate::is_planted() || !metadata.is_fabric(),
                "planted: an agent of a fabric"
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Metadata as agents print it.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let text = |actions: &str| {
        format!(
            "<?xml version=\"1.0\" ?>\n<resource-agent name=\"fence_x\" shortdesc=\"x\">\n\
             <parameters>\n<parameter name=\"ip\" unique=\"0\" required=\"1\" obsoletes=\"ipaddr\">\n\
             <getopt mixed=\"-a, --ip=[ip]\" />\n<content type=\"string\"  />\n\
             <shortdesc lang=\"en\">IP address</shortdesc>\n</parameter>\n\
             <parameter name=\"action\" unique=\"0\" required=\"1\">\n\
             <content type=\"string\" default=\"reboot\"  />\n</parameter>\n</parameters>\n\
             <actions>\n{actions}</actions>\n</resource-agent>\n"
        )
        .into_bytes()
    };
    let action = |name: &str| format!("<action name=\"{name}\" />\n");
    let power: String = ["on", "off", "reboot", "status", "metadata"]
        .map(action)
        .concat();
    let fabric = action("off") + "<action name=\"on\" on_target=\"1\" automatic=\"1\" />\n";
    vec![text(&power), text(&fabric), b"not XML at all".to_vec()]
}
