//! Short texts that thousands of records repeat: boot ids, queues' names. Equal ones share their bytes, as far as a thread remembers.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::ops::Deref;
use std::sync::Arc;
use std::{fmt, iter};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// So many texts are remembered by each thread, each in the one place that its hash says: none is looked for twice.
const REMEMBERED: usize = 256;

thread_local! {
    static LAST: RefCell<Vec<Option<Arc<str>>>> = const { RefCell::new(Vec::new()) };
}

/// An immutable text, cloned without a copy; read from JSON, it shares its bytes with an equal one that was read lately.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<str>);

impl Text {
    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(text);
        LAST.with_borrow_mut(|last| {
            if last.is_empty() {
                last.extend(iter::repeat_n(None, REMEMBERED));
            }
            let place = &mut last[hash as usize % REMEMBERED];
            match place {
                Some(known) if **known == *text => Self(Arc::clone(known)),
                _ => Self(Arc::clone(place.insert(text.into()))),
            }
        })
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.as_str().to_owned()
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        *self.0 == **other
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(text.into())
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_share_their_bytes_and_stand_in_json_as_strings() {
        let first = Text::from("coder");
        let second: Text = serde_json::from_str("\"cod\\u0065r\"").expect("a string");
        assert_eq!(first, second);
        assert!(Arc::ptr_eq(&first.0, &second.0));
        assert_eq!(serde_json::to_string(&first).expect("JSON"), "\"coder\"");
        assert_ne!(first, Text::from("devops"));
        // However many there are, each is itself.
        for n in 0..10 * REMEMBERED {
            assert_eq!(Text::from(n.to_string()), *n.to_string());
        }
    }
}
