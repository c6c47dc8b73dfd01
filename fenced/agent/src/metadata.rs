// SPDX-License-Identifier: GPL-2.0-only
//! What an agent says about itself: the XML that `-o metadata` prints.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::process::ExitStatus;
use std::time::Duration;

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::BytesStart;
use quick_xml::events::Event;

use cluster_rt::config::Action;
use cluster_rt::config::Options;

/// Root element of the metadata of every agent.
const ROOT: &str = "resource-agent";

/// What callers add to every call, whether an agent knows it or not.
const ADDED: [&str; 5] = ["action", "nodename", "node", "agent", "fail_time"];

/// What an agent knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// By name; whether one of its names must be given.
    parameters: BTreeMap<String, Parameter>,
    actions: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Parameter {
    is_required: bool,
    has_default: bool,
    /// The older name of the same.
    obsoletes: Option<String>,
}

/// Why it is not known what an agent knows.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// It cannot be started.
    #[error("{0}")]
    Start(String),
    /// It did not end.
    #[error("no metadata in {} s", .0.as_secs())]
    Time(Duration),
    /// It does not know the action.
    #[error("-o metadata: {0}")]
    Status(ExitStatus),
    /// What it printed is something else.
    #[error("what -o metadata prints is no XML of a fence agent: {0}")]
    Form(String),
}

/// Names are the same with dashes and underscores.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

impl Metadata {
    /// Reads what an agent printed.
    ///
    /// # Errors
    /// [`MetadataError::Form`].
    pub fn parse(text: &str) -> Result<Self, MetadataError> {
        let form = |error: &dyn std::fmt::Display| MetadataError::Form(error.to_string());
        let mut reader = Reader::from_str(text);
        let mut metadata = Self::default();
        let mut parameter: Option<String> = None;
        let mut is_agent = false;
        loop {
            match reader.read_event().map_err(|error| form(&error))? {
                Event::Start(element) | Event::Empty(element) => {
                    let name = element.name();
                    match name.as_ref() {
                        "resource-agent" => is_agent = true,
                        "parameter" => parameter = metadata.add_parameter(&element),
                        "content" => metadata.add_content(parameter.as_deref(), &element),
                        "action" => metadata.add_action(&element),
                        _ => {}
                    }
                }
                Event::End(element) if element.name().as_ref() == "parameter" => parameter = None,
                Event::Eof => break,
                Event::End(_)
                | Event::Text(_)
                | Event::CData(_)
                | Event::Comment(_)
                | Event::Decl(_)
                | Event::PI(_)
                | Event::DocType(_)
                | Event::GeneralRef(_) => {}
            }
        }
        if !is_agent {
            return Err(form(&format_args!("there is no element {ROOT}")));
        }
        if metadata.actions.is_empty() {
            return Err(form(&"it names no action"));
        }
        Ok(metadata)
    }

    fn add_parameter(&mut self, element: &BytesStart<'_>) -> Option<String> {
        let name = normal(&attribute(element, "name")?);
        let parameter = Parameter {
            // The new name of a deprecated one is asked for instead.
            is_required: is_set(element, "required") && !is_set(element, "deprecated"),
            has_default: false,
            obsoletes: attribute(element, "obsoletes").map(|name| normal(&name)),
        };
        self.parameters.insert(name.clone(), parameter);
        Some(name)
    }

    fn add_content(&mut self, parameter: Option<&str>, element: &BytesStart<'_>) {
        if let Some(parameter) = parameter.and_then(|name| self.parameters.get_mut(name)) {
            parameter.has_default = attribute(element, "default").is_some();
        }
    }

    fn add_action(&mut self, element: &BytesStart<'_>) {
        if let Some(name) = attribute(element, "name") {
            self.actions.insert(name.to_ascii_lowercase());
        }
    }

    /// Whether it knows an action. Fabric agents call off and on disable and enable, too.
    #[must_use]
    pub fn knows(&self, action: Action) -> bool {
        let other = match action {
            Action::Off => "disable",
            Action::On => "enable",
            Action::Reboot | Action::Status | Action::Monitor => "",
        };
        self.actions.contains(action.name()) || self.actions.contains(other)
    }

    /// Whether it cuts a node off from storage or network, and does not touch its power: such an
    /// agent has no `reboot`.
    #[must_use]
    pub fn is_fabric(&self) -> bool {
        self.knows(Action::Off) && !self.knows(Action::Reboot)
    }

    /// What it is asked for unless the configuration says: a node that comes back by itself is
    /// worth more than one that stays off, and what only cuts off cannot do better.
    #[must_use]
    pub fn default_action(&self) -> Action {
        if self.is_fabric() {
            Action::Off
        } else {
            Action::Reboot
        }
    }

    /// The actions that fence a node, of those it knows.
    pub(crate) fn fencing_actions(&self) -> String {
        let all = [Action::Reboot, Action::Off];
        let known = all.into_iter().filter(|action| self.knows(*action));
        known.map(Action::name).collect::<Vec<_>>().join(" or ")
    }

    /// What is wrong with the options of a call, one line each.
    #[must_use]
    pub fn complaints(&self, options: &Options) -> Vec<String> {
        let given: BTreeSet<String> = options.names().map(normal).collect();
        let mut found = Vec::new();
        for name in &given {
            if !self.parameters.contains_key(name) && !ADDED.contains(&name.as_str()) {
                found.push(format!(
                    "the agent does not know the option {name:?}; take it out, or correct its name"
                ));
            }
        }
        for (name, parameter) in &self.parameters {
            let names = [Some(name), parameter.obsoletes.as_ref()];
            let is_given = names.iter().flatten().any(|name| given.contains(*name))
                || ADDED.contains(&name.as_str())
                // The node's name stands in for the plug, as every caller has it.
                || ["plug", "port"].contains(&name.as_str());
            let is_missing = !is_given && !options.is_partial();
            if parameter.is_required && !parameter.has_default && is_missing {
                found.push(format!(
                    "the agent needs the option {name:?}; add it to the device's options or to \
                     its use"
                ));
            }
        }
        found
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = element.try_get_attribute(name).ok()??;
    let value = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?;
    Some(value.into_owned())
}

fn is_set(element: &BytesStart<'_>, name: &str) -> bool {
    attribute(element, name).as_deref() == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POWER: &str = r#"<?xml version="1.0" ?>
<resource-agent name="fence_demo" shortdesc="x" >
<symlink name="fence_other" shortdesc="y"/>
<longdesc>Some &lt;words&gt;.</longdesc>
<parameters>
	<parameter name="action" unique="0" required="1">
		<getopt mixed="-o, --action=[action]" />
		<content type="string" default="reboot"  />
	</parameter>
	<parameter name="ip" unique="0" required="1" obsoletes="ipaddr">
		<content type="string"  />
	</parameter>
	<parameter name="ipaddr" unique="0" required="1" deprecated="1">
		<content type="string"  />
	</parameter>
	<parameter name="plug" unique="0" required="1" obsoletes="port">
		<content type="string"  />
	</parameter>
	<parameter name="login_timeout" unique="0" required="0">
		<content type="second" default="5"  />
	</parameter>
</parameters>
<actions>
	<action name="on" automatic="0"/>
	<action name="off" />
	<action name="reboot" />
	<action name="status" />
	<action name="metadata" />
</actions>
</resource-agent>
"#;

    fn options(pairs: &[(&str, &str)]) -> Options {
        let mut options = Options::default();
        for (name, value) in pairs {
            options.set(name, value, false);
        }
        options
    }

    #[test]
    fn actions_and_kind_are_read() {
        let power = Metadata::parse(POWER).unwrap();
        for action in [Action::On, Action::Off, Action::Reboot, Action::Status] {
            assert!(power.knows(action), "{action}");
        }
        assert!(!power.knows(Action::Monitor) && !power.is_fabric());
        let fabric = POWER.replace("<action name=\"reboot\" />", "");
        assert!(Metadata::parse(&fabric).unwrap().is_fabric());
        let old = fabric
            .replace("\"off\"", "\"disable\"")
            .replace("\"on\"", "\"enable\"");
        let old = Metadata::parse(&old).unwrap();
        assert!(old.knows(Action::Off) && old.knows(Action::On) && old.is_fabric());
    }

    #[test]
    fn options_it_does_not_know_and_those_it_needs_are_named() {
        let power = Metadata::parse(POWER).unwrap();
        let good = options(&[
            ("ip", "h"),
            ("plug", "1"),
            ("login-timeout", "3"),
            ("nodename", "n"),
        ]);
        // The old name is required by itself, but the new one is the same.
        assert_eq!(power.complaints(&good), Vec::<String>::new());
        let old = options(&[("ipaddr", "h")]);
        assert_eq!(power.complaints(&old), Vec::<String>::new());
        let bad = options(&[("ipp", "h")]);
        let complaints = power.complaints(&bad);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(
            complaints[0].contains("does not know the option \"ipp\""),
            "{complaints:?}"
        );
        assert!(
            complaints[1].contains("needs the option \"ip\""),
            "{complaints:?}"
        );
    }

    #[test]
    fn what_is_no_metadata_is_refused() {
        for text in [
            "",
            "usage: agent [options]",
            "<html><body/></html>",
            "<resource-agent name=\"x\"><actions></actions></resource-agent>",
            "<resource-agent><actions><action name=\"off\"></resource-agent>",
        ] {
            assert!(Metadata::parse(text).is_err(), "{text}");
        }
    }
}
