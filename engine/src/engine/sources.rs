//! Opening what events come from, and placing a backend on each ingest agent.

use std::collections::HashMap;
use std::sync::Arc;

use super::EngineError;
use super::build::{Context, map_pool};
use crate::acks::{Ack, AckLink, AckSender, AcksWanted};
use crate::config::{self, Config};
use crate::dispatch::{SourceAccount, TopicTableCell};
use crate::frame::Transport;
use crate::ingest::tcp::{AckInlet, Credits, TcpBackend, TcpOptions};
use crate::ingest::udp::{UdpBackend, UdpOptions};
use crate::ingest::xdp::XdpBackend;
use crate::ingest::{Backend, IngestAgent, Intake, IntakeSpec};
use crate::memory::{Event, FramePool};
use crate::nic::{
    self, Attach, ChecksumPolicy, NapiThreads, NicSetup, Require, UdpSocket, UdpSocketOptions, XdpOptions, XskReady,
};
use crate::queue::{Feedback, mpsc, spsc};
use crate::runtime::agent::Agent;
use crate::runtime::clock::Nanos;
use crate::runtime::waker::Waker;
use crate::storage::REPLAYED_MAX;
use crate::topology::{AgentPlan, DEAD_LETTER, Role, ack_link_depth};

/// The ports that were really bound: a configured 0 asks for any free one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    pub udp: u16,
    pub tcp: Option<u16>,
}

/// Chooses the port where any free one will do: the program must be told before the socket is bound.
pub(super) fn choose_udp_port(config: &mut Config) -> Result<(), EngineError> {
    if config.xdp.interface.is_some() && config.listen.udp_port == 0 {
        let chosen = std::net::UdpSocket::bind((config.listen.udp_address, 0)).and_then(|socket| socket.local_addr());
        config.listen.udp_port = chosen.map_err(|error| EngineError(format!("no free UDP port: {error}")))?.port();
    }
    Ok(())
}

/// Opens the configured interface, with its UMEMs on `memory_node`; `None` when none is configured.
pub(super) fn open_nic(config: &Config, memory_node: Option<u32>) -> Result<Option<NicSetup>, EngineError> {
    let Some(interface) = &config.xdp.interface else { return Ok(None) };
    let xdp = &config.xdp;
    let options = XdpOptions {
        queues: match &xdp.queues {
            config::XdpQueues::All => None,
            config::XdpQueues::These(queues) => Some(queues.clone()),
        },
        require: match xdp.require {
            config::XdpRequire::Any => Require::Any,
            config::XdpRequire::Native => Require::Native,
            config::XdpRequire::Zerocopy => Require::Zerocopy,
        },
        attach: match xdp.mode {
            config::XdpMode::Auto => Attach::Auto,
            config::XdpMode::Native => Attach::Native,
            config::XdpMode::Generic => Attach::Generic,
        },
        verify_udp_checksum: match xdp.verify_udp_checksum {
            config::ChecksumPolicy::Auto => ChecksumPolicy::Auto,
            config::ChecksumPolicy::Always => ChecksumPolicy::Always,
            config::ChecksumPolicy::Never => ChecksumPolicy::Never,
        },
        frame_bytes: xdp.frame_bytes,
        frames: xdp.frames,
        rx_ring: xdp.rx_ring,
        // Every frame nobody holds is the kernel's to fill.
        fill_ring: xdp.frames,
        multicast_groups: xdp.multicast_groups.clone(),
        memory_node,
        ..XdpOptions::new(interface, config.listen.udp_port)
    };
    let setup = nic::open(&options).map_err(|error| EngineError(error.to_string()))?;
    if !setup.stale_removed.is_empty() {
        tracing::warn!(%interface, programs = ?setup.stale_removed, "replaced what a killed run had left attached");
    }
    Ok(Some(setup))
}

/// Gives the interface's NAPI threads the CPUs that the layout has for them, if it has any and the interface is steered.
pub(super) fn pin_napi(config: &Config, nic: Option<&NicSetup>) -> Result<Option<NapiThreads>, EngineError> {
    let cpus = &config.layout.napi_cpus;
    let Some(nic) = nic.filter(|nic| !cpus.is_empty() && nic.program.is_some()) else { return Ok(None) };
    let refused = |error| EngineError(format!("{}: {error}", config.places.of("layout.napi_cpus")));
    NapiThreads::pin(&nic.interface, cpus).map(Some).map_err(refused)
}

struct TcpSource {
    backend: TcpBackend,
    pool: FramePool,
    large: u8,
    credits: Credits,
}

/// The rings on which acknowledgements come back to the TCP agents: their ends at those who end events.
#[derive(Default)]
pub(super) struct AckRings {
    links: HashMap<String, Vec<AckLink>>,
    replays: HashMap<String, AckLink>,
    wanted: AcksWanted,
}

impl AckRings {
    /// Makes one from each agent that ends events to the next TCP agent.
    fn inlet(&mut self, context: &Context<'_>, tcp: &str) -> AckInlet {
        let depth = ack_link_depth(context.config) as usize;
        let enders = context.agents(|role| matches!(role, Role::Dispatcher | Role::Worker(_)));
        let enders = enders.into_iter().map(|from| (context.waker(&from.name, tcp), from.name));
        // Beside the log writer, so on no TCP agent's runner.
        let writer = context.config.storage.directory.is_some();
        let writer = writer.then(|| (Some(context.waker_of(tcp)), DEAD_LETTER.to_owned()));
        let link = |(waker, from)| {
            let (ring, consumer) = spsc::ring(depth);
            self.links.entry(from).or_default().push(AckLink { ring, waker });
            consumer
        };
        AckInlet { links: enders.chain(writer).map(link).collect(), wanted: self.wanted.clone(), depth }
    }

    /// Makes one from each agent that ends events to who replays dead letters, on the runner that `waker` wakes.
    pub fn replay_inlet(&mut self, context: &Context<'_>, waker: &Waker) -> (Vec<spsc::Consumer<Ack>>, AcksWanted) {
        let enders = context.agents(|role| matches!(role, Role::Dispatcher | Role::Worker(_)));
        let link = |from: AgentPlan| {
            let (ring, consumer) = spsc::ring(REPLAYED_MAX);
            self.replays.insert(from.name, AckLink { ring, waker: Some(waker.clone()) });
            consumer
        };
        (enders.into_iter().map(link).collect(), self.wanted.clone())
    }

    /// The ends of one agent.
    pub fn sender(&mut self, agent: &str) -> AckSender {
        let links = self.links.remove(agent).unwrap_or_default();
        AckSender::new(links, self.wanted.clone()).with_replay(self.replays.remove(agent))
    }
}

/// Everything open, not yet on an agent.
pub(super) struct Sources {
    pub acks: AckRings,
    xsk: Vec<XskReady>,
    udp: Vec<(UdpBackend, FramePool)>,
    tcp: Vec<TcpSource>,
    dispatchers: usize,
}

/// Binds sockets and maps their pools, in the order in which the plan numbers them.
pub(super) fn open(
    context: &mut Context<'_>,
    xsk: Vec<XskReady>,
    interface_index: Option<u32>,
    next_pool: &mut u8,
    topics: &Arc<TopicTableCell>,
) -> Result<Sources, EngineError> {
    *next_pool += xsk.len() as u8;
    let config = context.config;
    for ready in &xsk {
        let bytes = u64::from(config.xdp.frames) * u64::from(config.xdp.frame_bytes);
        context.observers.memory(&format!("xdp-{}", ready.queue), bytes, ready.huge_pages, ready.placement.clone());
    }
    let mut udp = Vec::new();
    let mut port = config.listen.udp_port;
    for plan in context.agents(|role| role == Role::Udp) {
        let options = UdpSocketOptions {
            address: config.listen.udp_address,
            port,
            reuse_port: config.udp.sockets > 1,
            receive_buffer_bytes: config.udp.receive_buffer_bytes,
            gro: match config.udp.gro {
                config::Gro::Auto => nic::Gro::Auto,
                config::Gro::On => nic::Gro::On,
                config::Gro::Off => nic::Gro::Off,
            },
        };
        let socket = UdpSocket::bind(&options).map_err(EngineError)?;
        port = socket.local_port();
        if udp.is_empty() {
            join_groups(config, &socket, interface_index)?;
        }
        let poll_interval_ns = config.layout.poll_interval.as_nanos() as Nanos;
        let options = UdpOptions { batch: config.udp.batch as usize, poll_interval_ns };
        let backend = UdpBackend::new(socket, options).map_err(|error| EngineError(format!("udp: {error}")))?;
        udp.push((backend, map_pool(context, next_pool, &plan.name, false)?));
    }
    let (mut tcp, mut acks) = (Vec::<TcpSource>::new(), AckRings::default());
    for plan in context.agents(|role| role == Role::Tcp) {
        let port = tcp.first().map_or(config.listen.tcp_port, |first| first.backend.local_port());
        let pool = map_pool(context, next_pool, &plan.name, true)?;
        let large = map_pool(context, next_pool, &format!("{} large", plan.name), true)?;
        let large_index = large.index();
        let options = tcp_options(context, plan.index as u32, port);
        let credits = options.credits.clone();
        let topics = topics.clone();
        let class_of = Box::new(move |hash, shape, topic: &[u8]| topics.class_of(hash, shape, topic));
        let inlet = acks.inlet(context, &plan.name);
        let backend = TcpBackend::bind(options, large, class_of, inlet).map_err(EngineError)?;
        context.observers.acks.push(backend.outstanding_acks_gauge());
        tcp.push(TcpSource { backend, pool, large: large_index, credits });
    }
    Ok(Sources { acks, xsk, udp, tcp, dispatchers: config.dispatchers as usize })
}

/// One membership an interface is enough: it is the host's, not the socket's, as far as the network can tell.
fn join_groups(config: &Config, socket: &UdpSocket, interface_index: Option<u32>) -> Result<(), EngineError> {
    let Some(interface_index) = interface_index else { return Ok(()) };
    for group in &config.xdp.multicast_groups {
        socket
            .join(*group, interface_index)
            .map_err(|error| EngineError(format!("xdp.multicast_groups: {group} cannot be joined: {error}")))?;
    }
    Ok(())
}

fn tcp_options(context: &Context<'_>, agent: u32, port: u16) -> TcpOptions {
    let (config, tcp) = (context.config, &context.config.tcp);
    // At most half of the smallest worker ring in all; lossy sources leave that half alone.
    let limit = u64::from(config.queues.spsc_depth) / 2 / u64::from(tcp.agents);
    TcpOptions {
        address: config.listen.tcp_address,
        port,
        agent,
        agents: tcp.agents,
        max_connections: (tcp.max_connections / tcp.agents) as usize,
        connection_budget_bytes: tcp.connection_budget_bytes as usize,
        large_wait_ns: tcp.large_wait.as_nanos() as Nanos,
        large_fill_ns: tcp.large_fill.as_nanos() as Nanos,
        ack_wait_ns: tcp.ack_wait.as_nanos() as Nanos,
        drain_wait_ns: (config.drain.timeout / 2).as_nanos() as Nanos,
        carry_bytes: tcp.carry_bytes as usize,
        idle_timeout_ns: tcp.idle_timeout.map(|timeout| timeout.as_nanos() as Nanos),
        max_frame_bytes: config.limits.frame_bytes,
        dedup_window_ms: config.dedup.window.as_millis() as u64,
        run_id: context.run_id.clone(),
        credits: Credits { limit, feedback: Arc::new(Feedback::default()) },
        subscriptions: context.subscriptions.clone(),
    }
}

impl Sources {
    /// All pools in the order of their numbers.
    pub fn pools(&self) -> Vec<&FramePool> {
        let xsk = self.xsk.iter().map(|ready| &ready.pool);
        let udp = self.udp.iter().map(|(_, pool)| pool);
        let tcp = self.tcp.iter().flat_map(|source| [&source.pool, source.backend.large_pool()]);
        xsk.chain(udp).chain(tcp).collect()
    }

    /// Dispatcher of the `place`-th ingest agent in path order.
    pub fn dispatcher_of(place: usize, dispatchers: usize) -> usize {
        place % dispatchers
    }

    /// Of each dispatcher, those that can be made to wait.
    pub fn accounts(&self) -> Vec<Vec<SourceAccount>> {
        let mut accounts: Vec<Vec<SourceAccount>> = Vec::new();
        accounts.resize_with(self.dispatchers, Vec::new);
        for (index, source) in self.tcp.iter().enumerate() {
            let place = self.xsk.len() + self.udp.len() + index;
            accounts[Self::dispatcher_of(place, self.dispatchers)].push(SourceAccount {
                pool: source.pool.index(),
                large: Some(source.large),
                class_credits: source.credits.of_a_class(),
                feedback: source.credits.feedback.clone(),
            });
        }
        accounts
    }

    /// Makes the ingest agents.
    pub fn start(
        self,
        context: &mut Context<'_>,
        queues: &mut [Vec<mpsc::Producer<Event>>],
        agents: &mut HashMap<String, Box<dyn Agent>>,
    ) -> Ports {
        let ports = Ports {
            udp: self.udp.first().map_or(0, |(backend, _)| backend.socket().local_port()),
            tcp: self.tcp.first().map(|source| source.backend.local_port()),
        };
        let dispatchers = context.agents(|role| role == Role::Dispatcher);
        let mut plans = context.agents(Role::is_ingest).into_iter().enumerate();
        let config = context.config;
        let mut place = |context: &mut Context<'_>, pool, transport, max_priority, make: Make| {
            let Some((place, plan)) = plans.next() else { return };
            let dispatcher = Self::dispatcher_of(place, dispatchers.len());
            // As many as the plan has agents for this dispatcher.
            let Some(queue) = queues[dispatcher].pop() else { return };
            let intake = Intake::new(IntakeSpec {
                pool,
                queue,
                parser: context.parser(transport, max_priority),
                waker: context.waker(&plan.name, &dispatchers[dispatcher].name),
            });
            let agent = make(context, &plan, intake);
            agents.insert(plan.name, agent);
        };
        for ready in self.xsk {
            let backend = XdpBackend::new(ready.rings, context.clock.clone());
            place(context, ready.pool, Transport::Udp, config.xdp.max_priority, boxed(backend));
        }
        for (backend, pool) in self.udp {
            place(context, pool, Transport::Udp, config.udp.max_priority, boxed(backend));
        }
        for source in self.tcp {
            context.observers.pool("tcp large", source.backend.large_pool());
            place(context, source.pool, Transport::Tcp, config.tcp.max_priority, boxed(source.backend));
        }
        ports
    }
}

type Make = Box<dyn FnOnce(&mut Context<'_>, &AgentPlan, Intake) -> Box<dyn Agent>>;

/// Wraps a backend into its agent, with everything about it made observable first.
fn boxed<B: Backend + 'static>(backend: B) -> Make {
    Box::new(move |context, plan, intake| {
        let observers = &mut context.observers;
        observers.blocks.push(intake.counters.block());
        observers.pending.push(intake.pending_gauge());
        observers.pool(plan.name.clone(), &intake.pool);
        let agent = IngestAgent::new(plan.name.clone(), backend, intake, context.state.clone());
        context.observers.spans.extend(agent.spans());
        context.observers.drains.push((plan.name.clone(), agent.drain_status()));
        Box::new(agent)
    })
}
