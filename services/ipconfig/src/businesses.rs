//! The businesses' numbers and names: from the configuration, and from a file that may change.

use std::path::Path;

use imaccess_common::config::watched::{self, Loaded};
use serde::Deserialize;

use crate::config::BusinessName;

/// One entry of the file, which says more of a business than is of interest here.
#[derive(Deserialize)]
struct Listed {
    id: u32,
    name: String,
}

/// All of them: those of the configuration, then those of the file.
///
/// # Errors
/// Says what is wrong with the file.
pub(crate) fn load(fixed: &[BusinessName], file: Option<&Path>) -> Result<Loaded<Vec<BusinessName>>, String> {
    let mut value = fixed.to_vec();
    let mut generation = 0;
    if let Some(path) = file {
        let text = watched::read(path)?;
        let listed: Option<Vec<Listed>> = serde_yaml::from_str(&text)
            .map_err(|fault| format!("{} is no list of businesses: {fault}", path.display()))?;
        let named = listed.unwrap_or_default().into_iter();
        value.extend(named.map(|Listed { id, name }| BusinessName { id, name }));
        generation = watched::fingerprint(text.as_bytes());
    }
    check(&value)?;
    Ok(Loaded { value, generation })
}

/// Checks that no two have the same number.
pub(crate) fn check(businesses: &[BusinessName]) -> Result<(), String> {
    let mut ids: Vec<u32> = businesses.iter().map(|business| business.id).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two `businesses` have the same id".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_adds_names_and_the_rest_of_it_is_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("businesses.yaml");
        let echo = BusinessName {
            id: 1,
            name: "echo".to_owned(),
        };
        std::fs::write(
            &file,
            "- {id: 2, name: chat, endpoint: 'http://chat:9000', timeout: 3s}",
        )
        .unwrap();
        let loaded = load(std::slice::from_ref(&echo), Some(&file)).unwrap();
        let named: Vec<(u32, &str)> = loaded.value.iter().map(|it| (it.id, it.name.as_str())).collect();
        assert_eq!(named, [(1, "echo"), (2, "chat")]);
        std::fs::write(&file, "- {id: 1, name: chat}").unwrap();
        assert!(load(&[echo], Some(&file)).is_err_and(|fault| fault.contains("same id")));
        std::fs::write(&file, "chat: 1").unwrap();
        assert!(load(&[], Some(&file)).is_err_and(|fault| fault.contains("businesses.yaml")));
    }
}
