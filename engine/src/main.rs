//! The `eventstream` command.

mod commands;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use commands::send::SendOptions;
use commands::tail::TailOptions;
use eventstream::admin::offline::{DlqCommand, LogCommand, Verdict};
use eventstream::admin::{
    self, ControlSocket, Request, Signal, Signals, StatusLine, SubscriptionsCommand, ledger_table, time_table,
};
use eventstream::config::{Config, LayoutMode};
use eventstream::engine::{Control, Engine};
use eventstream::metrics::{LostReason, MemoryReport, Report};
use eventstream::topology::{self, Described, Machine, Nic, Plan};

/// How `eventstream run` ends when the ledger does not balance,
const UNBALANCED: u8 = 1;
/// and when it does, but events were lost because the event log could not be written when the engine ended.
const LOST_AT_THE_END: u8 = 3;

/// Event streaming engine for UDP floods and ordinary TCP clients.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the engine until SIGTERM or SIGINT, then drains it and prints the ledger.
    Run(RunOptions),
    /// Publishes events.
    Send(SendOptions),
    /// Prints events as they come out.
    Tail(TailOptions),
    /// Prints what a shell needs to complete this program's commands.
    Completions { shell: clap_complete::Shell },
    /// Shows what the machine is made of, and the layout that a configuration comes to on it.
    Topology {
        #[command(flatten)]
        layout: LayoutOptions,
        #[arg(long)]
        json: bool,
    },
    /// Shows the live report of a running engine.
    Status {
        /// The whole report as JSON.
        #[arg(long)]
        json: bool,
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Shows or sets the state of a running engine.
    State {
        #[command(subcommand)]
        action: StateAction,
        #[arg(long, global = true)]
        config: Option<PathBuf>,
    },
    /// Makes a running engine read its configuration again.
    Reload {
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// The event log in a data directory that no engine has.
    Log {
        #[command(subcommand)]
        command: LogCommand,
    },
    /// The durable subscriptions and groups of a running engine.
    Subscriptions {
        #[command(subcommand)]
        command: SubscriptionsCommand,
    },
    /// The dead letters of a running engine, or in a data directory that no engine has.
    Dlq {
        #[command(subcommand)]
        command: DlqCommand,
    },
}

#[derive(Subcommand)]
enum StateAction {
    Get,
    /// running, paused, dropping or emergency.
    Set {
        state: String,
    },
}

/// What a layout follows from.
#[derive(clap::Args)]
struct LayoutOptions {
    /// YAML file; without it the defaults that configs/default.yaml documents.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Interface to serve by AF_XDP, instead of the configured one.
    #[arg(long)]
    iface: Option<String>,
    /// CPUs of the data threads, such as 1 or 2,3, instead of the configured ones.
    #[arg(long, value_delimiter = ',')]
    cpus: Option<Vec<u32>>,
}

#[derive(clap::Args)]
struct RunOptions {
    #[command(flatten)]
    layout: LayoutOptions,
    /// Drain and end after so long.
    #[arg(long)]
    seconds: Option<u64>,
    /// Write the final report here, as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Print no status line.
    #[arg(long)]
    quiet: bool,
    /// Print what would be built, and end.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(options) => run(&options),
        Command::Send(options) => options.run(),
        Command::Tail(options) => options.run(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "eventstream", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Topology { layout, json } => topology(&layout, json),
        Command::Status { json, config } => status(json, config.as_deref()),
        Command::State { action, config } => state(&action, config.as_deref()),
        Command::Reload { config } => ask(&Request::Reload, config.as_deref()).map(|answer| {
            println!("{}", answer.as_str().unwrap_or_default());
            ExitCode::SUCCESS
        }),
        Command::Log { command } => command.run().map(code),
        Command::Subscriptions { command } => command.run(ask).map(|()| ExitCode::SUCCESS),
        Command::Dlq { command } => command.run(ask_for_letters).map(code),
    };
    result.unwrap_or_else(|message| {
        eprintln!("eventstream: {message}");
        ExitCode::from(2)
    })
}

fn code(verdict: Verdict) -> ExitCode {
    match verdict {
        Verdict::Whole => ExitCode::SUCCESS,
        Verdict::Damaged => ExitCode::from(1),
    }
}

fn load(path: Option<&Path>) -> Result<Config, String> {
    path.map_or_else(|| Ok(Config::default()), |path| Config::load(path).map_err(|errors| errors.to_string()))
}

/// Where the control socket may be. The last resort of a user without a session is looked for, or made, only when no place
/// before it would do.
fn socket_paths(config: &Config, private: fn(&Path) -> std::io::Result<PathBuf>) -> impl Iterator<Item = PathBuf> {
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let private = session.is_none().then(|| std::iter::once_with(move || private(&std::env::temp_dir()).ok()));
    config.control.socket_paths(session.into_iter().chain(private.into_iter().flatten().flatten()))
}

fn ask(request: &Request, config: Option<&Path>) -> Result<serde_json::Value, String> {
    ask_for_letters(request, config, &mut |_| Ok(()))
}

fn ask_for_letters(
    request: &Request,
    config: Option<&Path>,
    each: &mut dyn FnMut(serde_json::Value) -> Result<(), String>,
) -> Result<serde_json::Value, String> {
    admin::ask(socket_paths(&load(config)?, admin::existing_private_folder), request, each)
}

fn status(json: bool, config: Option<&Path>) -> Result<ExitCode, String> {
    let report = ask(&Request::Status, config)?;
    if json {
        println!("{report}");
    } else {
        println!("{report:#}");
    }
    Ok(ExitCode::SUCCESS)
}

fn state(action: &StateAction, config: Option<&Path>) -> Result<ExitCode, String> {
    let request = match action {
        StateAction::Get => Request::State,
        StateAction::Set { state } => Request::SetState { state: state.clone() },
    };
    println!("{}", ask(&request, config)?.as_str().unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

/// The configuration with what the command line overrides.
fn configured(options: &LayoutOptions) -> Result<Config, String> {
    let mut config = load(options.config.as_deref())?;
    if let Some(interface) = &options.iface {
        config.xdp.interface = Some(interface.clone());
        config.places.override_by("xdp.interface", "--iface");
    }
    if let Some(cpus) = &options.cpus {
        if config.layout.mode == LayoutMode::Explicit {
            return Err("--cpus and an explicit layout contradict each other".into());
        }
        config.layout.cpus = cpus.clone();
        config.places.override_by("layout.cpus", "--cpus");
    }
    Ok(config)
}

fn machine_of(config: &Config) -> Machine {
    Machine::discover().with_disk_of(config.storage.directory.as_deref())
}

/// What a configuration comes to on a machine, and what had to be assumed.
fn planned(config: &Config, machine: &Machine) -> Result<Plan, String> {
    let (nic, assumed) = Nic::wanted(config).map_err(|error| error.to_string())?;
    let mut plan = Plan::derive(config, machine, &nic).map_err(|error| error.to_string())?;
    plan.notes.extend(assumed);
    Ok(plan)
}

fn check_config(config: &Config) -> Result<ExitCode, String> {
    print_long(planned(config, &machine_of(config))?)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what people look at a page of: a reader that has seen enough is no mistake.
fn print_long(text: impl std::fmt::Display) -> Result<(), String> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}

/// Prints the machine and the layout; 2 where the configuration's layout cannot work on it.
fn topology(layout: &LayoutOptions, json: bool) -> Result<ExitCode, String> {
    let config = configured(layout)?;
    let machine = machine_of(&config);
    let plan = planned(&config, &machine);
    let described = Described::new(machine, plan);
    if json {
        print_long(serde_json::to_string_pretty(&described).map_err(|error| error.to_string())?)?;
    } else {
        print_long(&described)?;
    }
    Ok(if described.refused.is_none() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn run(options: &RunOptions) -> Result<ExitCode, String> {
    let config = configured(&options.layout)?;
    if options.check_config {
        return check_config(&config);
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(config.log.level.as_str()));
    // Colours are for a terminal; in a file they would stand between the words.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("runtime: {error}"))?;
    let report = runtime.block_on(serve(options, config))?;
    print!("{}{}", ledger_table(&report), time_table(&report));
    if let Some(path) = &options.report {
        let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(ExitCode::from(match &report.ledger {
        ledger if !ledger.balanced => UNBALANCED,
        ledger if ledger.events.lost.contains_key(LostReason::LogDisk.name()) => LOST_AT_THE_END,
        _ => 0,
    }))
}

/// Starts the engine, answers people and scripts until the end is asked for, and drains.
async fn serve(options: &RunOptions, config: Config) -> Result<Report, String> {
    let mut signals = Signals::install().map_err(|error| format!("signals: {error}"))?;
    let admin_address = config.admin.enabled.then(|| (config.admin.address, config.admin.port).into());
    let engine = Engine::builder().config(config.clone()).start().map_err(|error| error.to_string())?;
    let control = engine.control();
    // This thread and those of the runtime; the control thread has done the same.
    if let Err(error) = topology::confine(&control.plan().control_cpus) {
        tracing::warn!(%error, "the control plane");
    }
    let (reload, mut reloads) = tokio::sync::mpsc::channel(1);
    let mut control_path = None;
    let mut socket_task = None;
    match ControlSocket::bind(socket_paths(&config, admin::private_folder)) {
        Ok(socket) => {
            control_path = Some(socket.path().to_owned());
            socket_task = Some(tokio::spawn(socket.serve(control.clone(), reload.clone())));
        }
        Err(error) => tracing::warn!(%error, "no control socket: state and status cannot be asked for"),
    }
    let mut admin = None;
    if let Some(address) = admin_address {
        match admin::serve_http(address, control.clone()).await {
            Ok(bound) => admin = Some(bound),
            Err(error) => tracing::warn!(%error, "no admin interface"),
        }
    }
    announce(&control, &config, control_path.as_deref(), admin);
    let mut line = StatusLine::default();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.tick().await;
    let end = tokio::time::sleep(options.seconds.map_or(Duration::MAX, Duration::from_secs));
    tokio::pin!(end);
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::End => break,
                Signal::Reload => reload_file(&control, options),
            },
            Some(()) = reloads.recv() => reload_file(&control, options),
            _ = tick.tick() => if !options.quiet { println!("{}", line.next(&control.report())) },
            () = &mut end => break,
        }
    }
    // The socket file goes with the task.
    if let Some(task) = socket_task {
        task.abort();
        let _ = task.await;
    }
    Ok(engine.drain())
}

fn reload_file(control: &Control, options: &RunOptions) {
    let Some(path) = &options.layout.config else {
        return tracing::warn!("there is no configuration file to read again");
    };
    match Config::load(path) {
        Err(errors) => tracing::error!(%errors, "the configuration stays as it was"),
        Ok(config) => match control.reload(config) {
            Err(error) => tracing::error!(error = error.0, "the configuration stays as it was"),
            Ok(restart) if !restart.is_empty() => tracing::warn!(?restart, "these changes need a restart"),
            Ok(_) => {}
        },
    }
}

/// Says what was really got, and the one thing people wonder about afterwards.
fn announce(control: &Control, config: &Config, socket: Option<&Path>, admin: Option<std::net::SocketAddr>) {
    println!("{}", control.plan());
    for thread in control.napi_threads() {
        println!("{} cpu {}", thread.name, thread.cpu);
    }
    println!("{}", memory_line(control.memory()));
    let mut steered = false;
    for queue in control.queue_modes() {
        let reason = if queue.reason.is_empty() { String::new() } else { format!("  ({})", queue.reason) };
        println!("queue {}:{} {}{reason}", queue.iface, queue.queue, queue.mode);
        steered |= queue.mode != "socket";
    }
    if steered {
        println!("note: firewall rules and tcpdump do not see steered datagrams");
    }
    let ports = control.ports();
    let mut ready = format!("READY udp={}:{}", bracketed(config.listen.udp_address), ports.udp);
    if let Some(port) = ports.tcp {
        ready += &format!(" tcp={}:{port}", bracketed(config.listen.tcp_address));
    }
    if let Some(address) = admin {
        ready += &format!(" admin=http://{address}");
    }
    if let Some(path) = socket {
        ready += &format!(" control={}", path.display());
    }
    println!("{ready} run={}", control.run_id());
}

/// Where the frame pools lie, in one line: pages by node, and how many pools are not where they were to be.
fn memory_line(memory: &[MemoryReport]) -> String {
    let mut pages: BTreeMap<u32, u64> = BTreeMap::new();
    memory.iter().flat_map(|pool| &pool.pages).for_each(|(node, count)| *pages.entry(*node).or_default() += count);
    let pages: Vec<String> = pages.iter().map(|(node, count)| format!("{count} pages on node {node}")).collect();
    let pages = if pages.is_empty() { "the kernel does not say where".to_owned() } else { pages.join(", ") };
    let elsewhere = |pool: &&MemoryReport| pool.node.is_some_and(|node| pool.pages.keys().any(|page| *page != node));
    let bound = memory.iter().filter(|pool| pool.policy == "bound").count();
    let (count, elsewhere) = (memory.len(), memory.iter().filter(elsewhere).count());
    format!("frame pools lie: {pages}; {bound} of {count} bound to their node, {elsewhere} not on it")
}

fn bracketed(address: std::net::IpAddr) -> String {
    match address {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    }
}
