/// How an object became visible to a namespace. Orders as istiod collects VirtualServices for a gateway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Visibility {
    /// Exported to its own namespace only, which is the client's.
    Private,
    /// Exported to namespaces by name, the client's among them.
    Named,
    Public,
}

/// Whether an object of namespace `owner` is visible in namespace `client`.
///
/// `export_to` is the object's list; if it is empty the mesh's `default` holds, and if that is empty too the object is
/// public. `*` outweighs everything beside it, `~` everything else (istio `virtualServiceIndex`, `IsServiceVisible`).
pub(crate) fn visibility(export_to: &[String], default: &[String], owner: &str, client: &str) -> Option<Visibility> {
    let list = if export_to.is_empty() { default } else { export_to };
    let has = |value: &str| list.iter().any(|entry| entry == value);
    if list.is_empty() || has("*") {
        return Some(Visibility::Public);
    }
    if has("~") {
        return None;
    }
    if owner == client {
        return (has(".") || has(owner)).then_some(Visibility::Private);
    }
    has(client).then_some(Visibility::Named)
}

/// Whether the list names the owner's namespace and no other.
pub(crate) fn is_private(export_to: &[String], default: &[String], owner: &str) -> bool {
    let list = if export_to.is_empty() { default } else { export_to };
    !list.is_empty() && list.iter().all(|entry| entry == "." || entry == owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_lists_decide_who_sees_an_object() {
        let check = |list: &[&str], client: &str, expected: Option<Visibility>| {
            let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(visibility(&list, &[], "own", client), expected, "{list:?} for {client}");
        };
        check(&[], "gw", Some(Visibility::Public));
        check(&["*"], "gw", Some(Visibility::Public));
        check(&["."], "gw", None);
        check(&["."], "own", Some(Visibility::Private));
        check(&["own"], "own", Some(Visibility::Private));
        check(&["gw"], "gw", Some(Visibility::Named));
        check(&["gw"], "own", None);
        check(&[".", "gw"], "gw", Some(Visibility::Named));
        check(&["~"], "own", None);
        check(&["a"], "gw", None);
    }

    #[test]
    fn the_mesh_default_stands_in_for_an_empty_list() {
        let private = [".".to_owned()];
        assert_eq!(visibility(&[], &private, "own", "gw"), None);
        assert_eq!(visibility(&["*".to_owned()], &private, "own", "gw"), Some(Visibility::Public));
        assert!(is_private(&[], &private, "own"));
        assert!(!is_private(&["*".to_owned()], &private, "own"));
        assert!(!is_private(&[], &[], "own"));
    }
}
