//! The route tables and listeners that were made, kept so that the next compilation makes only what differs.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_core::{Host, Origin, ResourceKey};
use tidegate_snapshot::{Listener, RouteTable, VirtualHost};

use crate::bindings::tables_of;
use crate::gateways::{GatewayPort, Gateways};

/// A route table, by the place of its port among those of the Gateways and its own place there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct TableId {
    pub(crate) port: usize,
    pub(crate) table: usize,
}

/// What was made of a port.
#[derive(Debug)]
pub(crate) struct MadePort {
    pub(crate) tables: Vec<HostTable>,
    /// Place of each server's table among `tables`; none for servers that route no requests.
    pub(crate) table_of: Vec<Option<usize>>,
    /// None if the port serves nothing.
    pub(crate) listener: Option<Arc<Listener>>,
    /// Place of each table's filter chain in the listener.
    pub(crate) chain_of: Vec<Option<usize>>,
}

impl MadePort {
    pub(crate) fn all(gateways: &Gateways) -> Vec<Self> {
        gateways.ports.iter().map(Self::new).collect()
    }

    fn new(port: &GatewayPort) -> Self {
        let (table_of, count) = tables_of(port);
        let tables = (0..count).map(|_| HostTable::default()).collect();
        Self { tables, table_of, listener: None, chain_of: vec![None; count] }
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.tables.iter().any(HostTable::is_stale)
    }
}

/// The virtual hosts of a route table.
#[derive(Debug, Default)]
pub(crate) struct HostTable {
    /// The most specific first.
    hosts: BTreeMap<Host, Arc<VirtualHost>>,
    made: Option<Arc<RouteTable>>,
    is_stale: bool,
}

impl HostTable {
    pub(crate) fn get(&self, host: &Host) -> Option<&Arc<VirtualHost>> {
        self.hosts.get(host)
    }

    /// Puts what is served for a host in the place of what was.
    pub(crate) fn set(&mut self, host: &Host, virtual_host: Option<VirtualHost>) {
        self.is_stale = true;
        match virtual_host {
            Some(made) => drop(self.hosts.insert(host.clone(), Arc::new(made))),
            None => drop(self.hosts.remove(host)),
        }
    }

    fn is_stale(&self) -> bool {
        self.is_stale || self.made.is_none()
    }

    /// The table, called `name`; `sources` are its servers'. If nothing changed it is the one that was made before.
    pub(crate) fn route_table(
        &mut self,
        name: &str,
        port: u16,
        sources: impl FnOnce() -> Vec<(ResourceKey, Origin)>,
    ) -> Arc<RouteTable> {
        if let Some(made) = self.made.as_ref().filter(|made| !self.is_stale && made.name == name) {
            return made.clone();
        }
        let mut hosts: Vec<_> = self.hosts.values().cloned().collect();
        if hosts.is_empty() {
            // As istiod: one host for everything, without routes, so that every request gets 404 NR.
            let mut nothing = VirtualHost::new(format!("blackhole:{port}"), vec![Host::new_unchecked("*")], Vec::new());
            nothing.sources = sources();
            hosts.push(Arc::new(nothing));
        }
        let table = Arc::new(RouteTable::following(self.made.as_deref(), name.to_owned(), hosts));
        self.is_stale = false;
        self.made = Some(table.clone());
        table
    }
}
