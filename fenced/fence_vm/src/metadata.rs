// SPDX-License-Identifier: GPL-2.0-only
//! What the agent says about itself, in the form all fence agents use.

/// Answer to the action `metadata`.
pub(crate) const XML: &str = r#"<?xml version="1.0" ?>
<resource-agent name="fence_vm" shortdesc="Fence agent for virtual machines" >
<longdesc>fence_vm resets or switches off virtual machines through a power switch that the
host offers on a virtio-serial port or a unix socket. It reports success only after the host
has confirmed that the machine's old instance runs no longer.</longdesc>
<vendor-url></vendor-url>
<parameters>
  <parameter name="action" unique="0" required="1">
    <getopt mixed="-o, --action=[action]" />
    <content type="string" default="reboot" />
    <shortdesc lang="en">What to do</shortdesc>
  </parameter>
  <parameter name="plug" unique="0" required="1" obsoletes="port">
    <getopt mixed="-n, --plug=[name]" />
    <content type="string" />
    <shortdesc lang="en">The machine to act on</shortdesc>
  </parameter>
  <parameter name="port" unique="0" required="0" deprecated="1">
    <getopt mixed="-n, --plug=[name]" />
    <content type="string" />
    <shortdesc lang="en">The machine to act on</shortdesc>
  </parameter>
  <parameter name="monitor" unique="0" required="0">
    <getopt mixed="-m, --monitor=[path]" />
    <content type="string" default="/dev/virtio-ports/conclave.power" />
    <shortdesc lang="en">Character device or unix socket of the power switch</shortdesc>
  </parameter>
  <parameter name="power_timeout" unique="0" required="0">
    <getopt mixed="--power-timeout=[seconds]" />
    <content type="second" default="20" />
    <shortdesc lang="en">Seconds to wait for each answer</shortdesc>
  </parameter>
  <parameter name="delay" unique="0" required="0">
    <getopt mixed="--delay=[seconds]" />
    <content type="second" default="0" />
    <shortdesc lang="en">Seconds to wait before acting</shortdesc>
  </parameter>
</parameters>
<actions>
  <action name="on" automatic="0"/>
  <action name="off" />
  <action name="reboot" />
  <action name="status" />
  <action name="monitor" />
  <action name="list" />
  <action name="metadata" />
  <action name="validate-all" />
</actions>
</resource-agent>
"#;
