//! The command line: what to do, and the settings that flags may override.
//!
//! Only what is said on the command line is here. [`Settings::load`](crate::config::Settings::load)
//! joins it with the settings file and the environment.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use secrecy::SecretString;

/// The arguments of one run of `tenantry`.
///
/// Secrets within are of a type that cannot be printed, so the whole may be logged with `{:?}`.
#[derive(Debug, Clone, Default, Parser)]
#[command(
    name = "tenantry",
    version,
    about = "The control plane for tenants: who they are, and which key speaks for whom.",
    long_about = None,
    after_help = "Every setting has a name such as `pool.size`. It can be given, later ones \
                  winning, in a TOML file (--config), as an environment variable \
                  (TENANTRY_POOL__SIZE: upper case, two underscores for a dot), or by --set.\n\
                  `tenantry config` prints every setting, its value, and where it came from.\n\n\
                  Without a database URL, Tenantry runs a private Postgres in its data folder.\n\
                  TENANTRY_PG_BIN names the folder of Postgres's programs if they are not found."
)]
pub struct Cli {
    /// Settings that flags override; they may stand before or after the command.
    #[command(flatten)]
    pub overrides: Overrides,

    /// What to do; without one, serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Cli {
    /// Says what to do: the command given, else [`Command::Serve`].
    pub fn command(&self) -> Command {
        self.command.clone().unwrap_or_default()
    }
}

/// The flags that give settings.
#[derive(Debug, Clone, Default, Args)]
pub struct Overrides {
    /// TOML file to read settings from [env: `TENANTRY_CONFIG`].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Address and port to serve on [setting: `listen`, default: 127.0.0.1:50051].
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,

    /// Folder for the private database and keys [setting: `data_dir`].
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data_dir: Option<String>,

    /// Postgres to use instead of a private one [setting: `database_url`].
    ///
    /// Other users of the machine can read a command line: a URL with a password is better given
    /// in the environment (`TENANTRY_DATABASE_URL` or `DATABASE_URL`) or in the settings file.
    #[arg(long, global = true, value_name = "URL")]
    pub database_url: Option<SecretString>,

    /// Any setting by its name, such as `pool.size=20`; may be repeated.
    #[arg(long, global = true, value_name = "NAME=VALUE")]
    pub set: Vec<Assignment>,
}

/// What one run of `tenantry` does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serves until told to stop (the default).
    #[default]
    Serve,

    /// Brings the database's schema up to date, as the owner named by `migrate.database_url`.
    Migrate {
        /// Undo the newest migration instead.
        #[arg(long)]
        down: bool,
    },

    /// Makes keys straight in the database, for the first one or when the last one is lost.
    #[command(subcommand)]
    Key(KeyCommand),

    /// Fills the database with tenants, for benchmarks and load tests.
    ///
    /// Writes as the owner named by `migrate.database_url`, straight into the tables. The same seed makes
    /// the same tenants; a run that was interrupted goes on where it ended.
    Seed {
        /// How many tenants there are to be, those of earlier runs included.
        #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u32).range(..100_000_000))]
        tenants: u32,

        /// Which tenants: another number makes others.
        #[arg(long, default_value_t = 1, value_parser = value_parser!(u16).range(1..))]
        seed: u16,

        /// Also where there are tenants that this seed did not make.
        #[arg(long)]
        beside_others: bool,
    },

    /// Prints the settings in effect as TOML, passwords masked, and where each came from.
    Config,

    /// Asks the server on `listen` whether it serves; exits with 0 if so, for probes.
    Health,
}

/// What can be done to keys without a running server.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum KeyCommand {
    /// Creates an API key of the whole system and prints its secret, once.
    Create {
        /// What the key may do.
        #[arg(long, value_enum)]
        role: BootstrapRole,
    },
}

/// The roles that a key made on the command line may have.
///
/// One on purpose: every other key can be created with it, over the API, which records by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BootstrapRole {
    /// May do everything.
    SystemAdmin,
}

/// One `NAME=VALUE` of `--set`.
///
/// The value is secret because the name may be that of a database URL.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The dotted name of the setting.
    pub name: String,
    /// The value as text.
    pub value: SecretString,
}

impl FromStr for Assignment {
    type Err = NotAnAssignment;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or(NotAnAssignment)?;

        Ok(Self { name: name.trim().to_owned(), value: value.into() })
    }
}

/// A `--set` without an equals sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write the setting's name, `=` and its value, such as `pool.size=20`")]
pub struct NotAnAssignment;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn no_command_serves() {
        let cli = Cli::parse_from(["tenantry", "--listen", "127.0.0.1:1"]);

        assert_eq!(cli.command(), Command::Serve);
    }

    #[test]
    fn flags_may_follow_the_command() {
        let cli = Cli::parse_from(["tenantry", "migrate", "--down", "--data-dir", "there"]);

        assert_eq!(cli.command(), Command::Migrate { down: true });
        assert_eq!(cli.overrides.data_dir.as_deref(), Some("there"));
    }

    #[test]
    fn key_create_names_its_role() {
        let cli = Cli::parse_from(["tenantry", "key", "create", "--role", "system-admin"]);

        let role = BootstrapRole::SystemAdmin;
        assert_eq!(cli.command(), Command::Key(KeyCommand::Create { role }));
    }

    #[test]
    fn debug_shows_no_secret() {
        let url = "postgres://u:hunter2@h/d";
        let set = format!("migrate.database_url={url}");
        let cli = Cli::parse_from(["tenantry", "--database-url", url, "--set", &set]);

        assert!(!format!("{cli:?}").contains("hunter2"));
    }
}
