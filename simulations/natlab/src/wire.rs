//! A line between two namespaces: plain, or with delay, jitter, loss and a bandwidth.

use anyhow::Result;

use crate::{line::Quality, netns::Netns, topology::Subnet};

/// The kind of a line.
#[derive(Debug, Clone, Default)]
pub(crate) enum Wiring {
    /// As fast as the machine.
    #[default]
    Plain,
    /// A simulated line.
    Simulated(Quality),
}

/// A line that was laid.
#[derive(Debug)]
pub(crate) enum Wire {
    Plain,
}

impl Wire {
    /// Connects `outer` (which gets the subnet's gateway address) and `inner` (the member, whose
    /// default route leads here). `line` names the devices at both.
    pub(crate) fn lay(
        wiring: &Wiring,
        outer: &Netns,
        inner: &Netns,
        line: &(String, String),
        subnet: Subnet,
    ) -> Result<Self> {
        let (outer_device, inner_device) = line;
        let wire = match wiring {
            Wiring::Plain => {
                outer.ip(&format!(
                    "link add {outer_device} type veth peer name {inner_device} netns {}\n",
                    inner.name()
                ))?;
                Self::Plain
            }
            Wiring::Simulated(_) => anyhow::bail!("not yet"),
        };
        outer.ip(&format!(
            "address add {}/24 dev {outer_device}\nlink set {outer_device} up\n",
            subnet.gateway()
        ))?;
        inner.ip(&format!(
            "address add {}/24 dev {inner_device}\nlink set {inner_device} up\nroute add default via {}\n",
            subnet.member(),
            subnet.gateway()
        ))?;
        Ok(wire)
    }
}
