//! The command line of `cargo xtask`.

use clap::{Parser, Subcommand};

use crate::process::workspace_root;
use crate::verification::orderings;
use crate::{Error, Result, bench, blast, ci, ebpf, run, setup, tidy};

/// Everything one does to EventStreamCore: set up, run, load, test.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what building and running needs; says what and why before it does.
    Setup {
        /// Also what rebuilding the compiled XDP program needs.
        #[arg(long)]
        ebpf: bool,
    },
    /// Build and run the engine: on an interface, or on a network built for it, with load.
    Run(run::Arguments),
    /// Put one load on an engine; every further argument goes to the load generator.
    #[command(disable_help_flag = true)]
    Blast {
        /// testrun, afxdp, gso, udp or tcp
        kind: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure, beside what others offer for the same job.
    Bench {
        #[command(subcommand)]
        which: bench::Bench,
    },
    /// Rebuild the compiled XDP programs that are committed.
    Ebpf {
        /// Compare with what is committed instead of replacing it.
        #[arg(long)]
        check: bool,
    },
    /// Every check and test there is, and a count of what passed, failed and was skipped.
    Test,
    /// The same as `test`, as it runs on a CI machine.
    Ci,
    MutateOrderings(orderings::Arguments),
    /// The rules about the source that no compiler knows.
    Tidy,
}

impl Cli {
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Setup { ebpf } => setup::run(if ebpf { setup::Purpose::Ebpf } else { setup::Purpose::Run }),
            Command::Run(arguments) => run::run(&arguments),
            Command::Blast { kind, arguments } => blast::blast(&kind, &arguments),
            Command::Bench { which } => bench::run(&which),
            Command::Ebpf { check } => ebpf::build(&workspace_root(), check).map_err(Error::Failed),
            Command::Test => ci::run(false),
            Command::Ci => ci::run(true),
            Command::MutateOrderings(arguments) => orderings::run(&arguments),
            Command::Tidy => tidy::run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> std::result::Result<Command, clap::Error> {
        Cli::try_parse_from(text.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_run_takes_its_options() {
        let text = "xtask run --iface eth0 --config c.yaml --seconds 2.5 --report r.json --no-load";
        let Command::Run(arguments) = parsed(text).unwrap() else { panic!("not run") };
        assert_eq!(arguments.iface.as_deref(), Some("eth0"));
        assert_eq!(arguments.seconds, Some(2.5));
        assert!(arguments.no_load);
        assert!(parsed("xtask run --seconds 0").is_err());
        assert!(parsed("xtask run --sceonds 5").is_err());
    }

    #[test]
    fn a_hurried_run_is_not_for_the_readme() {
        assert!(parsed("xtask bench micro --quick --json rows.json").is_ok());
        assert!(parsed("xtask bench micro --readme").is_ok());
        assert!(parsed("xtask bench micro --quick --readme").is_err());
        assert!(parsed("xtask bench micro --only spsc --quick").is_ok());
        assert!(parsed("xtask bench micro --only spsc --readme").is_err(), "the table is of one run");
        assert!(parsed("xtask bench e2e --quick --only xdp_1ev --json rows.json").is_ok());
        assert!(parsed("xtask bench e2e --quick --readme").is_err());
        assert!(parsed("xtask bench").is_err());
    }

    #[test]
    fn everything_after_a_loads_kind_is_the_generators() {
        let Command::Blast { kind, arguments } = parsed("xtask blast udp --rate 5 --ids --help").unwrap() else {
            panic!("not blast")
        };
        assert_eq!(kind, "udp");
        assert_eq!(arguments, ["--rate", "5", "--ids", "--help"]);
    }
}
