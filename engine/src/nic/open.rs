//! From an interface's name to sockets that receive: the ladder of modes, and what each queue really got.
//!
//! - **Thread**: control, once at start. **In**: [`XdpOptions`]. **Out**: the program (control's), a queue with its
//!   frame pool for each ingest agent, and for every queue its mode and the reason of each fallback.
//! - **Invariant**: UMEM, sockets, fill ring, socket map, addresses, and only then the program: the first packet it
//!   steers finds everything in place.
//!
//! What is possible is found by trying. Zero-copy is a property of a queue's binding, native or generic one of the whole
//! interface's program; so the queues are bound first, each as well as it can be, and the program is attached once.
//! Generic XDP cannot feed a zero-copy socket: when only that is left, such queues are bound anew.

use super::addresses::NetWatch;
use super::error::{NicError, describe};
use super::interface::{Hook, Interface};
use super::options::{Attach, ChecksumPolicy, Mode, Require, XdpOptions};
use super::program::{SteerProgram, clear_way};
use super::queue::XskQueue;
use super::umem::NewUmem;
use super::xsk::{Binding, XskRings};
use crate::memory::{FramePool, Placement, PoolSpec};

/// What one queue got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueMode {
    pub interface: String,
    pub queue: u32,
    pub mode: Mode,
    /// Why nothing better; empty when there is nothing better.
    pub reason: String,
}

/// A queue that is ready to receive.
pub struct XskReady {
    pub queue: u32,
    pub rings: XskQueue<XskRings>,
    pub pool: FramePool,
    pub huge_pages: bool,
    /// Where the UMEM was to lie, and where it does.
    pub placement: Placement,
}

/// Everything about one interface. Dropping it whole detaches the program before the sockets close; whoever takes it
/// apart must do the same.
pub struct NicSetup {
    /// Control's. None when every queue is the kernel socket's.
    pub program: Option<SteerProgram>,
    /// Control's: follows addresses and the interface's fate.
    pub watch: NetWatch,
    /// One for each ingest agent; pools are numbered from `first_pool_index` on, in this order.
    pub queues: Vec<XskReady>,
    pub modes: Vec<QueueMode>,
    pub interface: Interface,
    /// Programs of killed runs that were taken away.
    pub stale_removed: Vec<u32>,
}

/// A queue on its way up or down the ladder.
struct Candidate {
    queue: u32,
    ready: Option<(XskReady, Binding)>,
    /// Why each better mode could not be had, in the order of trying.
    reasons: Vec<String>,
}

/// Opens an interface's queues, each in the best mode it can have.
pub fn open(options: &XdpOptions) -> Result<NicSetup, NicError> {
    let interface = Interface::named(&options.interface)
        .map_err(|error| NicError::Interface { name: options.interface.clone(), error })?;
    let queues = options.queues.clone().unwrap_or_else(|| (0..interface.queue_count).collect());
    if let Some(queue) = queues.iter().find(|queue| **queue >= interface.queue_count) {
        let (interface, queue_count) = (interface.name, interface.queue_count);
        return Err(NicError::Queue { interface, queue: *queue, queue_count });
    }
    let watch = NetWatch::new(interface.index).map_err(NicError::Watch)?;
    let mut candidates: Vec<Candidate> =
        queues.into_iter().map(|queue| Candidate { queue, ready: None, reasons: Vec::new() }).collect();
    let mut stale_removed = Vec::new();
    let outcome = clear_way(&interface).and_then(|removed| {
        stale_removed = removed;
        steer(options, &interface, &watch, &mut candidates)
    });
    let (program, hook) = match outcome {
        Ok((program, hook)) => (Some(program), Some(hook)),
        Err(reason) => {
            for candidate in &mut candidates {
                candidate.ready = None;
                candidate.reasons.push(reason.clone());
            }
            (None, None)
        }
    };
    let modes: Vec<QueueMode> = candidates.iter().map(|candidate| candidate.mode(&interface, hook)).collect();
    let mut queues: Vec<_> = candidates.into_iter().filter_map(|candidate| Some(candidate.ready?.0)).collect();
    // Only now is it known which queues there are.
    for (index, ready) in (options.first_pool_index..).zip(&mut queues) {
        ready.pool.renumber(index);
    }
    let setup = NicSetup { program, watch, queues, modes, interface, stale_removed };
    match setup.modes.iter().find(|got| !options.require.is_met_by(got.mode)) {
        None => Ok(setup),
        Some(got) => Err(NicError::Require {
            require: options.require,
            interface: got.interface.clone(),
            queue: got.queue,
            mode: got.mode,
            reason: got.reason.clone(),
        }),
    }
}

/// Binds what can be bound and attaches the program. The reason on failure is for the operator; sockets made
/// until then are the caller's to drop.
fn steer(
    options: &XdpOptions,
    interface: &Interface,
    watch: &NetWatch,
    candidates: &mut [Candidate],
) -> Result<(SteerProgram, Hook), String> {
    let verify = match options.verify_udp_checksum {
        ChecksumPolicy::Auto => !interface.has_partial_checksums(),
        ChecksumPolicy::Always => true,
        ChecksumPolicy::Never => false,
    };
    let mut program = SteerProgram::load(options, interface, verify)?;
    program.set_addresses(&watch.addresses())?;
    let hooks: &[Hook] = match options.attach {
        Attach::Auto if options.require == Require::Any => &[Hook::Native, Hook::Generic],
        Attach::Auto | Attach::Native => &[Hook::Native],
        Attach::Generic => &[Hook::Generic],
    };
    if options.attach == Attach::Generic {
        candidates.iter_mut().for_each(|candidate| candidate.reasons.push("generic XDP is configured".to_owned()));
    }
    for hook in hooks {
        for candidate in candidates.iter_mut() {
            candidate.bind(options, interface, *hook);
            candidate.enter(&mut program);
        }
        if candidates.iter().all(|candidate| candidate.ready.is_none()) {
            return Err("no queue could be bound".to_owned());
        }
        match program.attach(*hook) {
            Ok(()) => return Ok((program, *hook)),
            Err(reason) => candidates.iter_mut().for_each(|candidate| candidate.reasons.push(reason.clone())),
        }
    }
    // Each candidate knows already.
    Err("no hook takes the program".to_owned())
}

impl Candidate {
    /// Binds the queue as well as the hook allows, unless it is bound so already.
    fn bind(&mut self, options: &XdpOptions, interface: &Interface, hook: Hook) {
        if let Some((_, binding)) = &self.ready
            && (hook == Hook::Native || *binding == Binding::Copy)
        {
            return;
        }
        self.ready = None; // a queue takes one socket at a time
        let bindings: &[Binding] =
            if hook == Hook::Native { &[Binding::Zerocopy, Binding::Copy] } else { &[Binding::Copy] };
        for binding in bindings {
            match ready(options, interface, self.queue, *binding) {
                Ok(ready) => {
                    self.ready = Some((ready, *binding));
                    return;
                }
                Err(reason) => {
                    let binding = if *binding == Binding::Zerocopy { "zero-copy" } else { "copy" };
                    self.reasons.push(format!("{binding}: {reason}"));
                }
            }
        }
    }

    fn enter(&mut self, program: &mut SteerProgram) {
        if let Some((ready, _)) = &self.ready
            && let Err(reason) = program.set_socket(self.queue, ready.rings.rings())
        {
            self.ready = None;
            self.reasons.push(reason);
        }
    }

    fn mode(&self, interface: &Interface, hook: Option<Hook>) -> QueueMode {
        let mode = match (&self.ready, hook) {
            (Some((_, Binding::Zerocopy)), Some(Hook::Native)) => Mode::NativeZerocopy,
            (Some(_), Some(Hook::Native)) => Mode::NativeCopy,
            (Some(_), Some(_)) => Mode::GenericCopy,
            _ => Mode::Socket,
        };
        QueueMode { interface: interface.name.clone(), queue: self.queue, mode, reason: self.reasons.join("; ") }
    }
}

/// A UMEM, a socket bound to its queue, a pool over the UMEM and a full fill ring.
fn ready(options: &XdpOptions, interface: &Interface, queue: u32, binding: Binding) -> Result<XskReady, String> {
    let umem = NewUmem::create(options, options.memory_node.or(interface.numa_node))?;
    let (huge_pages, placement) = (umem.huge_pages, umem.placement.clone());
    // SAFETY: once for this UMEM, which was made in the line above.
    let region = unsafe { umem.region() }.map_err(|error| format!("UMEM: {}", describe(&error)))?;
    let rings = XskRings::bind(umem, &interface.name, queue, options.rx_ring, binding)?;
    let spec = PoolSpec { slot_bytes: options.frame_bytes as usize, reliable: false };
    let mut pool = FramePool::new(0, region, &spec);
    let mut rings = XskQueue::new(rings, &pool);
    rings.fill(&mut pool);
    Ok(XskReady { queue, rings, pool, huge_pages, placement })
}

// Opened on the control thread, then taken apart: queues go to their agents' threads.
const _: fn() = || {
    fn can_be_sent<T: Send>() {}
    can_be_sent::<NicSetup>();
};
