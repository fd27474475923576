//! The two forms in which resource types are written down.

/// Defines messages: `pub name: Type => "jsonName" [enforcement],` for each field, then optionally
/// `one of ("a", "b"), ("c", "d");` for fields of which at most one may be set.
///
/// A name may be followed by others that are taken for it: `"mirrorPercent" | "mirror_percent"`.
/// An enforcement is `[pending]` (read, not acted on yet) or `[ignored "why"]`; none means that the field is enforced.
/// `redacted` after a message's name leaves out its `Debug`.
macro_rules! message {
    ($(
        $(#[$meta:meta])*
        pub $(($($scope:tt)+))? struct $name:ident $($redacted:ident)? {
            $( $(#[$field_meta:meta])* pub $field:ident : $type:ty => $json:literal $(| $alias:literal)* $([$($enforcement:tt)+])? ),* $(,)?
        }
        $( one of $( ($($alternative:literal),+) ),+ ; )?
    )+) => { $(
        $crate::decode::message!(@struct [$($redacted)?] $(#[$meta])* pub $(($($scope)+))? struct $name {
            $( $(#[$field_meta])* pub $field : $type, )*
        });

        impl $crate::decode::Decode for $name {
            const EXPECTS: &'static str = "a mapping";

            fn schema() -> Option<&'static $crate::decode::Schema> {
                static SCHEMA: $crate::decode::Schema = $crate::decode::Schema {
                    name: stringify!($name),
                    fields: &[ $( $crate::decode::FieldSchema::of::<$type>($json), )* ],
                };
                Some(&SCHEMA)
            }

            #[allow(unused_mut, clippy::match_single_binding, reason = "a message may have no fields")]
            fn decode<'n>(
                node: &'n $crate::node::Node,
                decoder: &mut $crate::decode::Decoder<'n>,
            ) -> Option<Self> {
                let entries = decoder.open::<Self>(node)?;
                let mut message = Self::default();
                for entry in entries {
                    match &*entry.key {
                        $( $json $(| $alias)* => decoder.field(
                            entry,
                            $crate::decode::message!(@enforcement $($($enforcement)+)?),
                            &mut message.$field,
                        ), )*
                        _ => decoder.unknown_field(entry),
                    }
                }
                $( $( decoder.one_of(entries, &[$($alternative),+]); )+ )?
                decoder.close();
                Some(message)
            }
        }
    )+ };

    (@struct [] $($item:tt)+) => {
        #[derive(Clone, PartialEq, Debug, Default)]
        $($item)+
    };
    (@struct [redacted] $($item:tt)+) => {
        #[derive(Clone, PartialEq, Default)]
        $($item)+
    };
    (@enforcement) => { $crate::decode::Enforcement::Enforced };
    (@enforcement pending) => { $crate::decode::Enforcement::Pending };
    (@enforcement ignored $why:literal) => { $crate::decode::Enforcement::Ignored($why) };
}

/// Defines enums whose values are written as names: `Variant = "NAME"`; the proto's zero value carries `#[default]`.
macro_rules! enumeration {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $text:literal ),+ $(,)? }
    )+) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
        pub enum $name { $( $(#[$variant_meta])* $variant ),+ }

        impl $name {
            /// The name that the API uses.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text ),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::decode::Decode for $name {
            const EXPECTS: &'static str = concat!("one of", $( " ", $text ),+);

            fn decode<'n>(
                node: &'n $crate::node::Node,
                decoder: &mut $crate::decode::Decoder<'n>,
            ) -> Option<Self> {
                match node.as_str() {
                    $( Some($text) => Some(Self::$variant), )+
                    _ => decoder.unknown_name(node, &[$($text),+]),
                }
            }
        }
    )+ };
}

pub(crate) use {enumeration, message};
