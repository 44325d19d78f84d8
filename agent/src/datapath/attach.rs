//! Attaching to interfaces: a pinned link of an earlier agent is taken over atomically, else a new one is made.
//!
//! A link's pin is named after program, place, interface index and name, so the next agent knows where XDP runs. Pins
//! of other layouts are looked through as well: an upgrade swaps the program of the old link and moves the pin.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, Link as _, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
};
use serde::{Deserialize, Serialize};

use super::{
    Datapath, DatapathError, chain,
    load::{EGRESS, INGRESS, kernel_version},
};

/// Directory of the pinned links, beside the tables.
pub(super) const LINKS: &str = "links";

/// Kernels before this one have no TCX links.
const TCX_SINCE: (u32, u32) = (6, 6);

/// First of all filters: one before it that passes a frame would end the matter.
const FILTER_PRIORITY: u16 = 1;
/// `tg`: tells our filter from others of the same priority.
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 0x7467);

/// Where XDP may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpChoice {
    /// In the driver, or in the network stack when the driver cannot.
    #[default]
    Auto,
    /// In the driver only.
    Driver,
    /// In the network stack only.
    Generic,
}

/// How egress is to be hooked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcChoice {
    /// By a link where the kernel has them, else by a filter.
    #[default]
    Auto,
    /// By a filter on the clsact qdisc, as before 6.6.
    Clsact,
}

/// Where XDP runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IngressMode {
    /// In the driver: the fast path.
    Driver,
    /// In the network stack: works everywhere, costs more.
    Generic,
}

impl IngressMode {
    const BOTH: [Self; 2] = [Self::Driver, Self::Generic];

    const fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
        }
    }

    const fn flag(self) -> XdpMode {
        match self {
            Self::Driver => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// How egress is hooked on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressHook {
    /// TCX link, from 6.6 on.
    Tcx,
    /// Filter on the clsact qdisc.
    Clsact,
}

/// One guarded interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Name.
    pub interface: String,
    /// Index.
    pub ifindex: u32,
    /// Where XDP runs.
    pub ingress: IngressMode,
    /// How egress is hooked.
    pub egress: EgressHook,
    /// Whether the links of an earlier agent were taken over.
    pub adopted: bool,
    /// Why driver mode was not possible, when it was tried and failed.
    pub fallback: Option<String>,
}

/// The interface a link belongs to.
struct Port<'a> {
    name: &'a str,
    ifindex: u32,
}

impl Datapath {
    /// Attaches both programs to `interface`, or takes over the links an earlier agent left there.
    pub fn attach(
        &mut self,
        interface: &str,
        choice: XdpChoice,
        tc: TcChoice,
    ) -> Result<Attached, DatapathError> {
        let failed = |cause: String| DatapathError::Attach { interface: interface.to_owned(), cause };
        let ifindex = nix::net::if_::if_nametoindex(interface)
            .map_err(|error| failed(format!("{error}; `ip link` lists the interfaces")))?;
        let port = Port { name: interface, ifindex };
        let pins = Pins { own: self.pins.clone() };
        let egress = attach_egress(&mut self.programs, &pins, &port, tc).map_err(failed)?;
        let (ingress, adopted, fallback) =
            attach_ingress(&mut self.programs, &pins, &port, choice).map_err(failed)?;
        let attached =
            Attached { interface: interface.to_owned(), ifindex, ingress, egress, adopted, fallback };
        self.attached.push(attached.clone());
        Ok(attached)
    }

    /// Unpins what agents of other layouts left, once their links have been taken over. A layout whose links still
    /// guard another interface is left alone.
    pub fn drop_other_layouts(&self) {
        let Some(own) = &self.pins else { return };
        for layout in layouts(own).skip(1).filter(|path| is_layout(path)) {
            if let Err(error) = remove_layout(&layout) {
                tracing::warn!(layout = %layout.display(), %error, "cannot remove the tables of an earlier layout");
            }
        }
    }
}

/// Directories of layouts are named by their hash; anything else beside them is not ours.
fn is_layout(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn remove_layout(layout: &Path) -> io::Result<()> {
    let links = layout.join(LINKS);
    if fs::read_dir(&links)?.next().is_some() {
        return Ok(());
    }
    fs::remove_dir(&links)?;
    for table in fs::read_dir(layout)? {
        fs::remove_file(table?.path())?;
    }
    fs::remove_dir(layout)
}

fn attach_ingress(
    programs: &mut Ebpf,
    pins: &Pins,
    port: &Port<'_>,
    choice: XdpChoice,
) -> Result<(IngressMode, bool, Option<String>), String> {
    let program: &mut Xdp = programs.program_mut(INGRESS).ok_or("no program")?.try_into().map_err(text)?;
    for mode in IngressMode::BOTH {
        let name = pin_name(INGRESS, mode.name(), port);
        let adopted = pins.adopt(&name, |link| {
            let id = program.attach_to_link(link.try_into().map_err(text)?).map_err(text)?;
            program.take_link(id).map_err(text)?.try_into().map_err(text)
        });
        if adopted {
            return Ok((mode, true, None));
        }
    }
    let attempts: &[IngressMode] = match choice {
        XdpChoice::Auto => &IngressMode::BOTH,
        XdpChoice::Driver => &[IngressMode::Driver],
        XdpChoice::Generic => &[IngressMode::Generic],
    };
    let mut refusal = None;
    for mode in attempts {
        match program.attach_to_if_index(port.ifindex, mode.flag()) {
            Ok(id) => {
                let link = program.take_link(id).map_err(text)?;
                match FdLink::try_from(link) {
                    Ok(link) => pins.keep(link, &pin_name(INGRESS, mode.name(), port))?,
                    // Kernels before 5.9 attach without a link; such an attachment stays until it is replaced.
                    Err(_) => return Err("this kernel has no XDP links: 5.9 or later is needed".to_owned()),
                }
                return Ok((*mode, false, refusal));
            }
            Err(error) => refusal = Some(explain(&error)),
        }
    }
    Err(refusal.unwrap_or_default())
}

fn attach_egress(
    programs: &mut Ebpf,
    pins: &Pins,
    port: &Port<'_>,
    choice: TcChoice,
) -> Result<EgressHook, String> {
    let program: &mut SchedClassifier =
        programs.program_mut(EGRESS).ok_or("no program")?.try_into().map_err(text)?;
    let name = pin_name(EGRESS, "tcx", port);
    if choice == TcChoice::Clsact || kernel_version() < TCX_SINCE {
        let hook = attach_clsact(program, port)?;
        // A frame must not be counted by both hooks once the choice has changed.
        pins.drop(&name);
        return Ok(hook);
    }
    let adopted = pins.adopt(&name, |link| {
        let id = program.attach_to_link(link.try_into().map_err(text)?).map_err(text)?;
        program.take_link(id).map_err(text)?.try_into().map_err(text)
    });
    if !adopted {
        let id = program.attach(port.name, TcAttachType::Egress).map_err(|error| explain(&error))?;
        let link = program.take_link(id).map_err(text)?;
        pins.keep(link.try_into().map_err(text)?, &name)?;
    }
    // Left by an agent that was told to use filters; nothing to remove is the normal case.
    let _ = filter(port)?.detach();
    Ok(EgressHook::Tcx)
}

/// A filter stays attached by itself; the one of an earlier agent is replaced in place, so that no packet slips by.
fn attach_clsact(program: &mut SchedClassifier, port: &Port<'_>) -> Result<EgressHook, String> {
    // An earlier agent's qdisc, or somebody else's, does as well.
    if let Err(cause) = tc::qdisc_add_clsact(port.name).map_err(text)
        && !cause.contains("os error 17")
    {
        return Err(cause);
    }
    let options = NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, classid: None };
    let id = match program.attach_to_link(filter(port)?) {
        Ok(id) => id,
        // There is none yet, as a rule; what else was wrong shows again.
        Err(refusal) => program
            .attach_with_options(port.name, TcAttachType::Egress, TcAttachOptions::Netlink(options))
            .map_err(|error| {
                format!("{}; nor can a filter be replaced: {}", explain(&error), chain(&refusal))
            })?,
    };
    std::mem::forget(program.take_link(id).map_err(text)?);
    Ok(EgressHook::Clsact)
}

/// The filter of an agent on this port, whether or not it is there.
fn filter(port: &Port<'_>) -> Result<SchedClassifierLink, String> {
    SchedClassifierLink::attached(port.name, TcAttachType::Egress, FILTER_PRIORITY, FILTER_HANDLE, None)
        .map_err(text)
}

/// Where links are pinned; without a directory they live as long as the process.
struct Pins {
    own: Option<PathBuf>,
}

impl Pins {
    /// Hands the pinned link called `name`, of this layout or another, to `take_over`. A link whose interface is gone,
    /// or that cannot be taken over, is unpinned, which detaches it.
    fn adopt(&self, name: &str, take_over: impl FnOnce(FdLink) -> Result<FdLink, String>) -> bool {
        let Some(own) = &self.own else {
            return false;
        };
        let Some(pin) = layouts(own).map(|layout| layout.join(LINKS).join(name)).find(|pin| pin.exists())
        else {
            return false;
        };
        let wanted = own.join(LINKS).join(name);
        let taken = PinnedLink::from_pin(&pin).map_err(text).and_then(|link| take_over(link.into()));
        match taken {
            Ok(_) if pin == wanted => true,
            Ok(link) => {
                let moved = link.pin(&wanted).is_ok();
                if moved && let Err(error) = fs::remove_file(&pin) {
                    tracing::warn!(pin = %pin.display(), %error, "cannot remove the pin of an earlier layout");
                }
                moved
            }
            Err(cause) => {
                tracing::info!(pin = %pin.display(), cause, "a pinned link is of no use any more");
                if let Err(error) = fs::remove_file(&pin) {
                    tracing::warn!(pin = %pin.display(), %error, "cannot remove a useless pin");
                }
                false
            }
        }
    }

    /// Removes the pin called `name` in every layout, which detaches the link.
    fn drop(&self, name: &str) {
        let pins = self.own.iter().flat_map(|own| layouts(own)).map(|layout| layout.join(LINKS).join(name));
        for pin in pins.filter(|pin| pin.exists()) {
            if let Err(error) = fs::remove_file(&pin) {
                tracing::warn!(pin = %pin.display(), %error, "cannot remove the pin of an earlier link");
            }
        }
    }

    fn keep(&self, link: FdLink, name: &str) -> Result<(), String> {
        if let Some(own) = &self.own {
            return link.pin(own.join(LINKS).join(name)).map(drop).map_err(text);
        }
        std::mem::forget(link);
        Ok(())
    }
}

/// This layout's directory first, then its siblings.
fn layouts(own: &Path) -> impl Iterator<Item = PathBuf> {
    let siblings = own.parent().and_then(|root| fs::read_dir(root).ok()).into_iter().flatten();
    let others = siblings.filter_map(Result::ok).map(|entry| entry.path()).filter({
        let own = own.to_owned();
        move |path| *path != own
    });
    std::iter::once(own.to_owned()).chain(others)
}

fn pin_name(program: &str, place: &str, port: &Port<'_>) -> String {
    format!("{program}-{place}-{}-{}", port.ifindex, port.name)
}

fn text(error: impl std::error::Error) -> String {
    chain(&error)
}

fn explain(error: &ProgramError) -> String {
    let cause = chain(error);
    let hint = if cause.contains("os error 16") {
        "; another XDP program is attached there: detach it, or guard another interface"
    } else if cause.contains("os error 95") || cause.contains("os error 22") {
        "; the driver has no native XDP, or the MTU is above 3506"
    } else {
        ""
    };
    format!("{cause}{hint}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed file operation is the test's failure")]

    use super::*;

    #[test]
    fn a_layout_is_removed_only_when_nothing_is_attached_through_it() {
        let root = tempfile::tempdir().unwrap();
        let layout = root.path().join("0123456789abcdef");
        let link = layout.join(LINKS).join("ingress-driver-2-lan0");
        fs::create_dir_all(layout.join(LINKS)).unwrap();
        fs::write(layout.join("FLOWS"), "").unwrap();
        fs::write(&link, "").unwrap();
        remove_layout(&layout).unwrap();
        assert!(layout.join("FLOWS").exists());
        fs::remove_file(&link).unwrap();
        remove_layout(&layout).unwrap();
        assert!(!layout.exists());
        assert!(is_layout(&layout) && !is_layout(&root.path().join("links")));
    }
}
