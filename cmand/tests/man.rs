// SPDX-License-Identifier: GPL-2.0-only
//! The manual pages know every option and every key, and no others.

use std::collections::BTreeSet;

use clap::CommandFactory;
use cluster_rt::config;

const CMAND: &str = include_str!("../man/cmand.8");
const CLUSTER_TOML: &str = include_str!("../man/cluster.toml.5");

/// Words after "\-\-" in a page.
fn options_of(page: &str) -> BTreeSet<String> {
    let after = page.split("\\-\\-").skip(1);
    let word = |text: &str| {
        let letters = text.chars().take_while(|c| c.is_ascii_alphanumeric());
        letters.collect::<String>()
    };
    after.map(word).collect()
}

#[test]
fn the_page_of_the_daemon_has_its_options() {
    let mut command = cmand::Args::command();
    command.build();
    let options = command
        .get_arguments()
        .filter_map(|option| option.get_long());
    let options: BTreeSet<String> = options.map(str::to_owned).collect();
    assert_eq!(options_of(CMAND), options);
}

#[test]
fn the_page_of_the_daemon_has_its_defaults_and_statuses() {
    let mut command = cmand::Args::command();
    command.build();
    let with_value = |option: &&clap::Arg| option.get_action().takes_values();
    for option in command.get_arguments().filter(with_value) {
        for default in option.get_default_values() {
            let default = default.to_string_lossy();
            assert!(CMAND.contains(default.as_ref()), "{default}");
        }
    }
    use cluster_rt::exit;
    for status in [
        exit::OK,
        exit::FAILED,
        exit::USAGE,
        exit::CONFIG,
        exit::RUNNING,
        exit::RESET,
        exit::REFUSED,
    ] {
        assert!(CMAND.contains(&format!("\n.TP\n.B {status}\n")), "{status}");
    }
}

/// What the parser says it knows, asked with a key that no section has.
#[test]
fn the_page_of_the_configuration_has_every_key_and_no_other() {
    let text = "x = 1\n[cluster]\nx = 1\n[[node]]\nx = 1\n[[node.fence]]\nx = 1\n\
                [[fence_device]]\nx = 1\n[fence]\nx = 1\n[dlm]\nx = 1\n";
    let mistakes = config::parse(text).expect_err("an unknown key in each section");
    let known = mistakes
        .iter()
        .filter_map(|mistake| mistake.message.split("it knows: ").nth(1))
        .flat_map(|keys| keys.split(", "));
    let sections = ["cluster", "node", "fence", "fence_device", "dlm"];
    let known: BTreeSet<&str> = known.filter(|key| !sections.contains(key)).collect();
    let lines = CLUSTER_TOML.lines().collect::<Vec<_>>();
    let documented = lines.windows(2).filter(|pair| pair[0] == ".TP");
    let documented = documented.filter_map(|pair| pair[1].strip_prefix(".B "));
    assert_eq!(documented.collect::<BTreeSet<_>>(), known);
    for section in [
        "[cluster]",
        "[[node]]",
        "[[node.fence]]",
        "[[fence_device]]",
    ] {
        assert!(CLUSTER_TOML.contains(&format!(".SH SECTION {section}")));
    }
}

#[test]
fn the_example_is_a_configuration() {
    let example = CLUSTER_TOML
        .split(".nf\n")
        .nth(1)
        .and_then(|rest| rest.split(".fi").next());
    config::parse(example.expect("an example")).expect("without mistakes");
}
