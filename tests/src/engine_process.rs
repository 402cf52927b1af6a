//! The engine as a child process with a configuration, a control socket and a folder of its own, so that tests run side
//! by side. Dropped, it is killed, and its folder goes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use xtask::process;

use crate::client::PATIENCE;

/// What an engine is started with.
pub struct Setup {
    binary: PathBuf,
    wrapper: Vec<String>,
    environment: Vec<(String, String)>,
    interface: Option<String>,
    udp_port: u16,
    tcp_port: u16,
    config: String,
}

/// A running engine.
pub struct Engine {
    child: Child,
    binary: PathBuf,
    folder: PathBuf,
    ready: String,
    output: Output,
    log: Output,
}

/// An engine that has ended by itself.
pub struct Ended {
    pub status: ExitStatus,
    pub report: Value,
    /// What it said on standard error.
    pub log: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            binary: crate::binaries::engine().to_path_buf(),
            wrapper: Vec::new(),
            environment: Vec::new(),
            interface: None,
            udp_port: 0,
            tcp_port: 0,
            config: String::new(),
        }
    }
}

impl Setup {
    /// Serves this interface by AF_XDP. The port is steered before it is bound, so it is chosen here.
    pub fn interface(mut self, interface: &str) -> Self {
        let socket = std::net::UdpSocket::bind("[::]:0").expect("a free port");
        self.udp_port = socket.local_addr().expect("bound").port();
        self.interface = Some(interface.to_owned());
        self
    }

    /// Listens for TCP on a port that was free just now, each time it is started: clients come back to it.
    pub fn same_tcp_port(mut self) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        self.tcp_port = listener.local_addr().expect("bound").port();
        self
    }

    /// Further configuration: whole sections that the harness does not write itself.
    pub fn config(mut self, yaml: &str) -> Self {
        self.config.push_str(yaml);
        self
    }

    pub fn environment(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// A command that executes the engine: `setpriv --no-new-privs`.
    pub fn wrapped_by(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(ToString::to_string).collect();
        self
    }

    /// Starts the engine and waits until it listens. From the thread that is to outlive it.
    pub fn start(&self) -> Engine {
        let mut engine = self.launch();
        let ready = engine.output.wait_for("READY ", PATIENCE);
        engine.ready = ready.unwrap_or_else(|| panic!("not ready; it said {:#?}", engine.log.lines())).0;
        engine
    }

    /// Starts the engine, and waits for nothing: to be killed before it is ready.
    pub fn launch(&self) -> Engine {
        let folder = new_folder();
        // Everything else is as the defaults say. The state changes when the test says so and not when the machine is busy.
        let socket = folder.join("control.sock");
        let config =
            format!("admin: {{enabled: false}}\ncontrol: {{socket: {}, {}}}\n", socket.display(), xtask::NO_SHEDDING);
        let listen = format!("listen: {{udp_port: {}, tcp_port: {}}}\n", self.udp_port, self.tcp_port);
        fs::write(folder.join("config.yaml"), config + &listen + &self.config).expect("the folder is ours");
        let (program, arguments) = match self.wrapper.split_first() {
            None => (self.binary.as_os_str(), &[][..]),
            Some((wrapper, arguments)) => (wrapper.as_ref(), arguments),
        };
        let mut command = process::bound_to_us(program);
        command.args(arguments);
        if !self.wrapper.is_empty() {
            command.arg(&self.binary);
        }
        command.args(["run", "--quiet", "--config"]).arg(folder.join("config.yaml"));
        command.arg("--report").arg(folder.join("report.json"));
        if let Some(interface) = &self.interface {
            command.args(["--iface", interface]);
        }
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the engine starts");
        let output = Output::of(child.stdout.take().expect("piped"));
        let log = Output::of(child.stderr.take().expect("piped"));
        Engine { child, binary: self.binary.clone(), folder, ready: String::new(), output, log }
    }
}

fn new_folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("esc-engine-test-{}-{number}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

impl Engine {
    /// Port number after `key=` in the line that says the engine listens.
    fn port(&self, key: &str) -> u16 {
        let address = self.ready.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let port = address.and_then(|address| address.rsplit(':').next()?.parse().ok());
        port.unwrap_or_else(|| panic!("no {key} port in {:?}", self.ready))
    }

    pub fn udp_port(&self) -> u16 {
        self.port("udp")
    }

    pub fn tcp_port(&self) -> u16 {
        self.port("tcp")
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The live report.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ask(&["status", "--json"])).expect("status is JSON")
    }

    pub fn set_state(&self, state: &str) {
        self.ask(&["state", "set", state]);
    }

    /// What a command of the engine's says when it is asked about this one.
    pub fn ask(&self, arguments: &[&str]) -> String {
        process::capture(&mut self.command(arguments)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The command, to be run otherwise.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--config").arg(self.folder.join("config.yaml"));
        command
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// Asks for the live report until `done` holds; returns it.
    pub fn wait_until(&self, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if done(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "waited in vain: {what}; {:#}", status["ledger"]);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The modes of the queues, and all reasons.
    pub fn modes(&self) -> Vec<(String, String)> {
        let status = self.status();
        let queues = status["queues"].as_array().expect("a list of queues");
        let text = |queue: &Value, key| queue[key].as_str().expect("text").to_owned();
        queues.iter().map(|queue| (text(queue, "mode"), text(queue, "reason"))).collect()
    }

    /// Waits for a message on standard error; says when it came.
    pub fn heard(&self, text: &str, within: Duration) -> Option<Instant> {
        self.log.wait_for(text, within).map(|(_, at)| at)
    }

    /// All it has said on standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Memory of the process that is resident, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(path).expect("the engine lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// SIGTERM, and everything the engine says about itself until it has ended.
    pub fn drain(mut self) -> Ended {
        let status = process::terminate(&mut self.child, PATIENCE).expect("a child of ours");
        self.output.join();
        self.log.join();
        let path = self.folder.join("report.json");
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{status}, {error}: {:?}", self.log.lines()));
        let report = serde_json::from_str(&text).expect("the report is JSON");
        Ended { status, report, log: self.log.lines() }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.end_now();
    }

    fn end_now(&mut self) {
        let _ = kill_process(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end_now();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Ended {
    /// A number in the ledger by its path, such as `/events/accepted`; 0 for a reason that never occurred.
    pub fn count(&self, path: &str) -> u64 {
        count(&self.report, path)
    }

    /// Ended with 0 and everything accounted for.
    pub fn assert_balanced(&self) {
        let ledger = &self.report["ledger"];
        assert_eq!(ledger["imbalances"], serde_json::json!([]), "{:#}", self.report);
        assert_eq!(ledger["balanced"], true, "{ledger:#}");
        assert_eq!(self.status.code(), Some(0), "{:#?}", self.log);
        let defects: Vec<_> =
            self.log.iter().filter(|line| line.contains("defect") || line.contains("panic")).collect();
        assert!(defects.is_empty(), "{defects:#?}");
    }

    pub fn processed(&self) -> u64 {
        ["realtime", "transactional", "batch"].iter().map(|c| self.count(&format!("/events/processed/{c}"))).sum()
    }
}

/// A number in the ledger of a report.
pub fn count(report: &Value, path: &str) -> u64 {
    report["ledger"].pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

/// Sums the reasons under a path of the ledger of a report.
pub fn sum(report: &Value, path: &str) -> u64 {
    let reasons = report["ledger"].pointer(path).and_then(Value::as_object);
    reasons.map_or(0, |reasons| reasons.values().filter_map(Value::as_u64).sum())
}

/// What comes out of a pipe, line by line, with the time of each.
struct Output {
    said: Arc<(Mutex<Said>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Said {
    lines: Vec<(String, Instant)>,
    is_over: bool,
}

impl Said {
    fn line_with(&self, text: &str) -> Option<(String, Instant)> {
        self.lines.iter().find(|(line, _)| line.contains(text)).cloned()
    }
}

impl Output {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let said: Arc<(Mutex<Said>, Condvar)> = Arc::default();
        let shared = said.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lock(&shared.0).lines.push((line, Instant::now()));
                shared.1.notify_all();
            }
            lock(&shared.0).is_over = true;
            shared.1.notify_all();
        });
        Self { said, reader: Some(reader) }
    }

    /// The first line that contains `text`, at most after `within`.
    fn wait_for(&self, text: &str, within: Duration) -> Option<(String, Instant)> {
        let guard = lock(&self.said.0);
        let waits = |said: &mut Said| !said.is_over && said.line_with(text).is_none();
        let waited = self.said.1.wait_timeout_while(guard, within, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.line_with(text)
    }

    fn lines(&self) -> Vec<String> {
        lock(&self.said.0).lines.iter().map(|(line, _)| line.clone()).collect()
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
