// SPDX-License-Identifier: GPL-2.0-only
//! A method: what is done with several devices to fence one node.
//!
//! A device alone does as it is told. With several, a node could draw power from the feed that is
//! on again while the next one is switched off, so a reboot of them is taken apart: every feed
//! off, every feed seen to be off, and only then the feeds on again. What is on again late, or
//! not at all, is no failure: the node was off.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

use crate::metadata::Metadata;
use crate::run::Call;
use crate::run::Outcome;
use crate::run::run;
use cluster_rt::config::Action;

/// A way to fence a node: calls of agents, each with what the configuration asks of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// Its name, for messages.
    pub name: String,
    /// Its calls in the order of the configuration, with what it asks for; none: what the agent
    /// does best ([`Metadata::default_action`]).
    pub calls: Vec<(Call, Option<Action>)>,
}

/// One run in the course of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which of the method's calls.
    pub call: usize,
    /// What it is asked.
    pub action: Action,
    /// Whether the node is fenced by then: a failure from here on is only worth a line in the log.
    pub is_after: bool,
}

/// What a method is doing, for whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Name of the method.
    pub method: String,
    /// Name of the device.
    pub device: String,
    /// What the device is asked.
    pub action: Action,
    /// Longest time the run may take.
    pub limit: Duration,
}

impl Method {
    /// The runs of this method in their order. `known`: what is known of the agents, by name; an
    /// agent that is not in it is taken to know off, on and reboot and nothing else.
    #[must_use]
    pub fn steps(&self, known: &BTreeMap<String, Metadata>) -> Vec<Step> {
        let step = |call, action, is_after| Step {
            call,
            action,
            is_after,
        };
        let actions: Vec<Action> = self.actions(known).collect();
        if let [action] = actions[..] {
            return vec![step(0, action, false)];
        }
        let of = |wanted: &'static [Action]| {
            let calls = actions.iter().enumerate();
            let calls = calls.filter(move |(_, action)| wanted.contains(action));
            calls.map(|(call, _)| call)
        };
        let mut steps = Vec::new();
        for call in of(&[Action::Off, Action::Reboot]) {
            steps.push(step(call, Action::Off, false));
        }
        for call in of(&[Action::Off, Action::Reboot]) {
            let metadata = known.get(&self.calls[call].0.agent);
            if metadata.is_some_and(|agent| agent.knows(Action::Status)) {
                steps.push(step(call, Action::Status, false));
            }
        }
        for call in of(&[Action::On, Action::Reboot]) {
            steps.push(step(call, Action::On, true));
        }
        steps
    }

    /// What each call does to the node.
    fn actions(&self, known: &BTreeMap<String, Metadata>) -> impl Iterator<Item = Action> {
        self.calls.iter().map(|(call, action)| {
            let agent = known.get(&call.agent);
            let default = || agent.map_or(Action::Reboot, Metadata::default_action);
            action.unwrap_or_else(default)
        })
    }

    /// What is wrong with this method, as far as the agents' metadata tells, one line each.
    #[must_use]
    pub fn complaints(&self, known: &BTreeMap<String, Metadata>) -> Vec<String> {
        let mut found = Vec::new();
        for step in self.steps(known) {
            let call = &self.calls[step.call].0;
            if let Some(metadata) = known.get(&call.agent)
                && !metadata.knows(step.action)
            {
                let (name, action) = (&self.name, step.action);
                let Call { device, agent, .. } = call;
                let known = metadata.fencing_actions();
                found.push(format!(
                    "method {name}: device {device}: agent {agent} does not know the action \
                     {action}; set action to one that it knows: {known}"
                ));
            }
        }
        for (call, _) in &self.calls {
            let metadata = known.get(&call.agent);
            let complaints =
                metadata.map_or_else(Vec::new, |agent| agent.complaints(&call.options));
            found.extend(complaints.into_iter().map(|complaint| {
                let (method, device) = (&self.name, &call.device);
                format!("method {method}: device {device}: {complaint}")
            }));
        }
        found
    }

    /// Longest time the runs of this method may take until the node is fenced.
    #[must_use]
    pub fn limit(&self, known: &BTreeMap<String, Metadata>) -> Duration {
        let steps = self.steps(known).into_iter();
        let before = steps.filter(|step| !step.is_after);
        before.map(|step| self.calls[step.call].0.timeout).sum()
    }

    /// Whether the power of the node is cut; otherwise it is cut off and may go on running.
    #[must_use]
    pub fn is_power(&self, known: &BTreeMap<String, Metadata>) -> bool {
        let calls = self.calls.iter().zip(self.actions(known));
        let mut calls = calls.map(|((call, _), action)| (known.get(&call.agent), action));
        calls.any(|(agent, action)| match action {
            Action::Reboot => true,
            Action::Off => agent.is_none_or(|agent| !agent.is_fabric()),
            Action::On | Action::Status | Action::Monitor => false,
        })
    }

    /// Runs it against the node. `tell` hears of each run before it begins.
    ///
    /// # Errors
    /// The first failure before the node was fenced, in words without secrets.
    pub async fn run(
        &self,
        node: &str,
        known: &BTreeMap<String, Metadata>,
        mut tell: impl FnMut(Progress),
    ) -> Result<(), String> {
        for step in self.steps(known) {
            let call = &self.calls[step.call].0;
            tell(Progress {
                method: self.name.clone(),
                device: call.device.clone(),
                action: step.action,
                limit: call.timeout,
            });
            let begun = Instant::now();
            let outcome = run(call, step.action).await;
            let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (device, agent, action) = (&call.device, &call.agent, step.action);
            tracing::debug!(%node, device, agent, %action, ms, ?outcome, "agent ended");
            if let Err(why) = judge(step, outcome) {
                let why = format!("device {device}: agent {agent}: {action}: {why}");
                if !step.is_after {
                    return Err(why);
                }
                tracing::warn!(%node, why, "the node is fenced, and a device was not switched on");
            }
        }
        Ok(())
    }
}

/// Whether a step came out as it must for the node to be fenced.
fn judge(step: Step, outcome: Outcome) -> Result<(), String> {
    match (step.action, outcome) {
        (Action::Status, Outcome::Off) => Ok(()),
        (Action::Status, Outcome::Success) => Err(
            "it was switched off and the device says that it is on; is the plug the node's?".into(),
        ),
        (_, Outcome::Failure(why)) => Err(why),
        (_, Outcome::Success) => Ok(()),
        (_, Outcome::Off) => Err("an answer to a question that was not asked".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster_rt::config::Options;

    const KNOWS_STATUS: &str = "<resource-agent><actions><action name=\"off\"/><action name=\"on\"/>\
        <action name=\"reboot\"/><action name=\"status\"/></actions></resource-agent>";
    const FABRIC: &str = "<resource-agent><actions><action name=\"off\"/><action name=\"on\"/>\
        </actions></resource-agent>";

    fn known() -> BTreeMap<String, Metadata> {
        let entry = |name: &str, text| (name.to_owned(), Metadata::parse(text).unwrap());
        BTreeMap::from([entry("pdu", KNOWS_STATUS), entry("san", FABRIC)])
    }

    fn method(calls: &[(&str, Action)]) -> Method {
        let call = |(at, (agent, action)): (usize, &(&str, Action))| {
            let call = Call {
                device: format!("d{at}"),
                agent: (*agent).to_owned(),
                options: Options::default(),
                timeout: Duration::from_secs(5),
            };
            (call, Some(*action))
        };
        Method {
            name: "m".into(),
            calls: calls.iter().enumerate().map(call).collect(),
        }
    }

    fn shown(method: &Method) -> String {
        let steps = method.steps(&known()).into_iter();
        let word = |step: Step| {
            let after = if step.is_after { "*" } else { "" };
            format!("{}{}{after}", step.action, step.call)
        };
        steps.map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_feed_is_off_and_seen_to_be_before_one_is_on_again() {
        use Action::Off;
        use Action::On;
        use Action::Reboot;
        for (calls, want) in [
            (&[("pdu", Reboot)][..], "reboot0"),
            (&[("pdu", Off)], "off0"),
            (
                &[("pdu", Reboot), ("pdu", Reboot)],
                "off0 off1 status0 status1 on0* on1*",
            ),
            // The form of old configurations, in its order and in a wrong one.
            (
                &[("pdu", Off), ("pdu", Off), ("pdu", On), ("pdu", On)],
                "off0 off1 status0 status1 on2* on3*",
            ),
            (
                &[("pdu", Off), ("pdu", On), ("pdu", Off), ("pdu", On)],
                "off0 off2 status0 status2 on1* on3*",
            ),
            // Who cannot tell the state is believed; so is an agent of which nothing is known.
            (&[("pdu", Reboot), ("san", Off)], "off0 off1 status0 on0*"),
            (&[("own", Reboot), ("own", Reboot)], "off0 off1 on0* on1*"),
        ] {
            assert_eq!(shown(&method(calls)), want);
        }
    }

    #[test]
    fn what_an_agent_does_not_know_is_found_before_it_is_needed() {
        let wrong = method(&[("san", Action::Reboot)]).complaints(&known());
        assert_eq!(
            wrong,
            [
                "method m: device d0: agent san does not know the action reboot; \
             set action to one that it knows: off"
            ]
        );
        let right = method(&[("san", Action::Off)]);
        assert_eq!(right.complaints(&known()), Vec::<String>::new());
        let other = method(&[("unheard-of", Action::Reboot)]);
        assert_eq!(other.complaints(&known()), Vec::<String>::new());
    }

    #[test]
    fn without_a_word_an_agent_does_what_it_does_best() {
        for (agent, want) in [("pdu", "reboot0"), ("san", "off0"), ("own", "reboot0")] {
            let mut method = method(&[(agent, Action::On)]);
            method.calls[0].1 = None;
            assert_eq!(shown(&method), want, "{agent}");
            assert_eq!(method.complaints(&known()), Vec::<String>::new());
        }
    }

    #[test]
    fn power_and_fabric_are_told_apart() {
        assert!(method(&[("pdu", Action::Off)]).is_power(&known()));
        assert!(method(&[("own", Action::Off)]).is_power(&known()));
        assert!(!method(&[("san", Action::Off)]).is_power(&known()));
        assert!(method(&[("san", Action::Off), ("pdu", Action::Reboot)]).is_power(&known()));
    }

    #[test]
    fn a_status_that_says_on_after_an_off_is_a_failure_and_off_elsewhere_too() {
        let step = |action| Step {
            call: 0,
            action,
            is_after: false,
        };
        assert!(judge(step(Action::Status), Outcome::Off).is_ok());
        assert!(judge(step(Action::Status), Outcome::Success).is_err());
        assert!(judge(step(Action::Off), Outcome::Success).is_ok());
        assert!(judge(step(Action::Off), Outcome::Off).is_err());
    }

    #[test]
    fn the_limit_counts_what_must_end_before_the_node_is_fenced() {
        let two = method(&[("pdu", Action::Reboot), ("pdu", Action::Reboot)]);
        assert_eq!(two.limit(&known()), Duration::from_secs(20));
    }
}
