//! The contents of a policy file, read whole.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use common::bearer::Rules;

use super::file;
use crate::sandbox;

/// The longest policy file, in bytes.
const MAX: u64 = 1024 * 1024;

/// A policy file.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    path: PathBuf,
    /// The contents that were taken or refused last, or the reason why they could not be read.
    seen: Contents,
    /// Other contents, which were read once.
    next: Option<Contents>,
}

type Contents = Result<Vec<u8>, String>;

/// The reason why a policy file is refused.
#[derive(Debug)]
pub enum Refused {
    /// The file can't be read.
    Unreadable(String),
    /// The file has a mistake.
    Mistake(String),
}

impl PolicyFile {
    /// Reads a policy file and its rules.
    ///
    /// # Errors
    /// Fails when the file can't be read or has a mistake.
    pub fn open(path: &Path) -> Result<(Self, Rules), Refused> {
        let file = Self {
            path: path.to_owned(),
            seen: contents(path),
            next: None,
        };
        let rules = file.rules()?;
        Ok((file, rules))
    }

    /// Returns the path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the rules of the contents that were seen last.
    ///
    /// # Errors
    /// Fails when the file could not be read or has a mistake.
    pub fn rules(&self) -> Result<Rules, Refused> {
        let path = self.path.display();
        match &self.seen {
            Err(error) => Err(Refused::Unreadable(format!("{path}: {error}"))),
            Ok(bytes) => {
                file::parse(bytes).map_err(|mistake| Refused::Mistake(format!("{path}: {mistake}")))
            }
        }
    }

    /// Reads the file once, because the operator has said that it is complete (SIGHUP).
    pub fn read_again(&mut self) {
        (self.seen, self.next) = (contents(&self.path), None);
    }

    /// Reads the file, and returns whether it has other contents than were seen last. They must be read
    /// twice, because a file that is written in place is not whole for a moment.
    pub fn has_changed(&mut self) -> bool {
        self.settle(contents(&self.path))
    }

    fn settle(&mut self, now: Contents) -> bool {
        if now == self.seen {
            self.next = None;
            return false;
        }
        let is_settled = self.next.as_ref() == Some(&now);
        if is_settled {
            (self.seen, self.next) = (now, None);
        } else {
            self.next = Some(now);
        }
        is_settled
    }
}

impl Refused {
    /// Returns the text, which names the file.
    pub fn text(&self) -> &str {
        match self {
            Self::Unreadable(text) | Self::Mistake(text) => text,
        }
    }
}

/// Reads a file. It follows links each time, so that a link that is replaced leads to the new file.
fn contents(path: &Path) -> Contents {
    let text = |error: std::io::Error| sandbox::explained(&error);
    // A read from a pipe could wait without end.
    if !path.metadata().map_err(text)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(text)?;
    file.take(MAX + 1).read_to_end(&mut bytes).map_err(text)?;
    if bytes.len() as u64 > MAX {
        Err(format!("is longer than {MAX} bytes"))
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RULE: &str = "[[rule]]\npaths = [\"/a\"]\npublic = true\n";

    #[test]
    fn contents_are_taken_once_when_they_are_read_twice() {
        let content = |text: &str| Ok(text.as_bytes().to_vec());
        let mut file = PolicyFile {
            path: PathBuf::from("/p"),
            seen: content("a"),
            next: None,
        };
        for (now, has_changed) in [
            (content("a"), false),
            (content(""), false),
            (content("b"), false),
            (content("b"), true),
            (content("b"), false),
            (content("c"), false),
            (content("b"), false),
            (Err("gone".to_owned()), false),
            (content("b"), false),
            (Err("gone".to_owned()), false),
            (Err("gone".to_owned()), true),
            (Err("gone".to_owned()), false),
        ] {
            assert_eq!(file.settle(now.clone()), has_changed, "{now:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_whole_is_refused_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.toml");
        let refused = |path: &Path| PolicyFile::open(path).unwrap_err();
        let missing = refused(&path);
        assert!(matches!(missing, Refused::Unreadable(_)), "{missing:?}");
        assert!(
            missing.text().contains("policy.toml: No such file"),
            "{missing:?}"
        );
        let is_folder = refused(directory.path());
        assert!(
            is_folder.text().contains("not a regular file"),
            "{is_folder:?}"
        );
        fs::write(&path, "#".repeat(MAX as usize + 1)).unwrap();
        let long = refused(&path);
        assert!(
            long.text().contains("longer than 1048576 bytes"),
            "{long:?}"
        );
        fs::write(&path, format!("{RULE}x = 1\n")).unwrap();
        let mistake = refused(&path);
        assert!(matches!(mistake, Refused::Mistake(_)), "{mistake:?}");
        assert!(
            mistake.text().contains("policy.toml: line 4, column 1: "),
            "{mistake:?}"
        );
        fs::write(&path, RULE).unwrap();
        assert_eq!(PolicyFile::open(&path).unwrap().1.len(), 1);
    }

    #[test]
    fn a_file_behind_a_link_that_is_replaced_is_read_again() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        // Kubernetes mounts a ConfigMap in this way.
        for (version, text) in [("..1", RULE), ("..2", &RULE.replace("/a", "/b"))] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("policy.toml"), text).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/policy.toml", at("policy.toml")).unwrap();
        let (mut file, _) = PolicyFile::open(&at("policy.toml")).unwrap();
        assert!(!file.has_changed());
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(!file.has_changed() && file.has_changed());
        let rules = file.rules().unwrap();
        assert!(rules.deciding(&http::Method::GET, "/b").is_some());
    }
}
