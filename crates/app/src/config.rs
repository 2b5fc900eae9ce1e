//! The configuration: one TOML file, the environment over it, and every fault with its place (SPEC §12).
//!
//! The environment comes in as an argument, so that nothing here depends on the process it runs in.

mod agent;
mod alerts;
mod document;
mod environment;
mod fault;
mod file;
mod gateway;
mod kind;
mod profile;
mod resolve;
mod settings;
mod sink;
mod source;
mod structure;
mod telemetry;
#[cfg(test)]
mod tests;
mod vault;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) use agent::AgentChain;
pub(crate) use document::{reference, schema, show};
pub(crate) use fault::{Fault, Severity};
pub(crate) use file::{Config, LogFormat, LogLevel};
pub(crate) use resolve::reachable_without_tls;
pub(crate) use settings::{
    AlertSettings, ChainSettings, Export, LogSettings, ProbeSettings, RetentionSettings, Settings, Template,
    Way,
};
pub(crate) use source::home;

use evergrant_core::Reason;

/// The environment: names and values.
pub(crate) type Environment = BTreeMap<String, String>;

/// A configuration that may be used.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// What the rest of the program works with.
    pub(crate) settings: Settings,
    /// The file with the environment over it and the defaults of paths filled in, as [`show`] prints it.
    pub(crate) raw: Config,
    /// The file, if there is one.
    pub(crate) source: Option<PathBuf>,
    /// What is to be said, though nothing is refused for it.
    pub(crate) warnings: Vec<Fault>,
}

impl Loaded {
    /// What `--accept-provider-terms` does: every chain's terms count as accepted, and no warning is left of it.
    pub(crate) fn accept_provider_terms(&mut self) {
        for chain in &mut self.settings.chains {
            chain.accepted = true;
        }
        self.settings.templates.iter_mut().for_each(Template::accept_provider_terms);
        for chain in self.raw.chains.values_mut() {
            chain.accept_provider_terms = true;
        }
        self.warnings.retain(|warning| warning.reason != Some(Reason::TermsNotAccepted));
    }
}

/// Finds, reads and checks the configuration. `path` is `--config`.
///
/// All faults that can be found come back at once, warnings among them, in the order of the file.
pub(crate) fn load(path: Option<&Path>, env: &Environment) -> Result<Loaded, Vec<Fault>> {
    let source = source::find(path, env).map_err(|fault| vec![fault])?;
    let text = match &source {
        Some(file) => source::read(file).map_err(|fault| vec![fault])?,
        None => String::new(),
    };
    load_text(source, &text, env)
}

/// As [`load`], with the file's text at hand.
fn load_text(source: Option<PathBuf>, text: &str, env: &Environment) -> Result<Loaded, Vec<Fault>> {
    let mut faults = fault::Faults::new(source.clone(), text);
    let schema = schema();
    let Some(mut tree) = structure::parse(text, &schema, &mut faults) else {
        return Err(faults.in_order());
    };
    environment::overlay(&mut tree, &schema, env, &mut faults);
    let mut raw = match Config::from_tree(tree.table) {
        Ok(raw) => raw,
        Err(error) => {
            faults.add(Fault::error(format!("the configuration cannot be read: {error}")));
            return Err(faults.in_order());
        }
    };
    let settings = resolve::resolve(&mut raw, &tree.places, env, &mut faults);
    match settings {
        Some(settings) if !faults.any_error() => {
            Ok(Loaded { settings, raw, source, warnings: faults.in_order() })
        }
        Some(_) | None => Err(faults.in_order()),
    }
}
