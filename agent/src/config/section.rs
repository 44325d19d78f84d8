//! One macro that keeps a section's struct, its defaults and its documentation in one place.
//!
//! The doc comment of every key becomes the comment above that key in the generated example, so neither can be forgotten.

/// One key of a section: name, doc comment line by line, and the default as TOML.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    /// Name in the file.
    pub name: &'static str,
    /// Lines of its doc comment.
    pub doc: &'static [&'static str],
}

/// What a section offers the generator of the example.
pub(crate) trait Section: serde::Serialize + Default {
    /// Lines of the section's doc comment.
    const ABOUT: &'static [&'static str];
    /// Its keys in order.
    const KEYS: &'static [Key];
}

macro_rules! section {
    ($($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr,)+ })+) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $key: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $crate::config::section::Section for $name {
            const ABOUT: &'static [&'static str] = &[$($about),+];
            const KEYS: &'static [$crate::config::section::Key] = &[
                $($crate::config::section::Key { name: stringify!($key), doc: &[$($doc),+] }),+
            ];
        }
    )+};
}
pub(crate) use section;
