use std::fmt;

use http::HeaderName;
use tidegate_snapshot::Headers;

use super::Known;

/// Bytes of an arena. Arenas hold a head and what was added to it, far below 4 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    start: u32,
    length: u32,
}

impl Span {
    pub(crate) fn new(start: usize, length: usize) -> Self {
        Self { start: start as u32, length: length as u32 }
    }

    fn of(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..][..self.length as usize]
    }
}

#[derive(Clone, Copy)]
struct Field {
    name: Span,
    value: Span,
    known: Known,
}

/// Fields of a message in their order; names are in lower case, and a name may come several times.
///
/// Text of fields that were removed or replaced stays in the arena until [`Fields::clear`].
#[derive(Clone, Default)]
pub(crate) struct Fields {
    text: Vec<u8>,
    list: Vec<Field>,
}

impl Fields {
    /// Forgets everything but the memory.
    pub(crate) fn clear(&mut self) {
        self.text.clear();
        self.list.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Adds a field of a head that is being read; its name and value stand in the text that [`Fields::adopt`] will get.
    pub(crate) fn announce(&mut self, name: Span, value: Span) {
        self.list.push(Field { name, value, known: Known::Other });
    }

    /// Takes the text of the fields that were announced. Nothing else was added before.
    pub(crate) fn adopt(&mut self, head: &[u8]) {
        self.text.clear();
        // Room for what a message gets on its way.
        self.text.reserve(head.len() + 512);
        self.text.extend_from_slice(head);
        for field in &mut self.list {
            let name = &mut self.text[field.name.start as usize..][..field.name.length as usize];
            name.make_ascii_lowercase();
            field.known = Known::of(name);
        }
    }

    /// Name and value of every field.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.list.iter().map(|field| (field.name.of(&self.text), field.value.of(&self.text)))
    }

    /// As [`Fields::iter`], with what each name is.
    pub(crate) fn iter_known(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.list.iter().map(|field| (field.known, field.name.of(&self.text), field.value.of(&self.text)))
    }

    /// All values of `known`, which is no [`Known::Other`].
    pub(crate) fn all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.list.iter().filter(move |field| field.known == known).map(|field| field.value.of(&self.text))
    }

    /// The first value of `known`.
    pub(crate) fn get(&self, known: Known) -> Option<&[u8]> {
        let field = self.list.iter().find(|field| field.known == known)?;
        Some(field.value.of(&self.text))
    }

    pub(crate) fn contains(&self, known: Known) -> bool {
        self.list.iter().any(|field| field.known == known)
    }

    /// The first value of `name`, which is in lower case.
    #[cfg(test)]
    pub(crate) fn get_name(&self, name: &str) -> Option<&[u8]> {
        self.list.iter().find(|field| field.name.of(&self.text) == name.as_bytes()).map(|it| it.value.of(&self.text))
    }

    /// Adds a field behind the others. `name` is in lower case.
    pub(crate) fn add(&mut self, name: &str, value: &[u8]) {
        let known = Known::of(name.as_bytes());
        self.add_with(known, name, |text| text.extend_from_slice(value));
    }

    /// As [`Fields::add`], of a name that is no text yet.
    pub(crate) fn append(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        let (name, known) = (Span::new(start, name.len()), Known::of(name));
        self.list.push(Field { name, value: Span::new(start + name.length as usize, value.len()), known });
    }

    fn add_with(&mut self, known: Known, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.text.len();
        self.text.extend_from_slice(name.as_bytes());
        let value = self.write(write);
        self.list.push(Field { name: Span::new(start, name.len()), value, known });
    }

    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.text.len();
        write(&mut self.text);
        Span::new(start, self.text.len() - start)
    }

    /// Makes `value` the one value of `name`, where it stood first or behind the others. `name` is in lower case.
    pub(crate) fn set(&mut self, name: &str, value: &[u8]) {
        let known = Known::of(name.as_bytes());
        self.replace(known, name, |text| text.extend_from_slice(value));
    }

    /// As [`Fields::set`] for a name that is known, with a value that is written by `write`.
    pub(crate) fn set_with(&mut self, known: Known, write: impl FnOnce(&mut Vec<u8>)) {
        self.replace(known, known.as_str(), write);
    }

    /// As [`Fields::set`] for a name that is known.
    pub(crate) fn set_known(&mut self, known: Known, value: &[u8]) {
        self.set_with(known, |text| text.extend_from_slice(value));
    }

    fn replace(&mut self, known: Known, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(first) = self.list.iter().position(|field| self.is(field, known, name)) else {
            return self.add_with(known, name, write);
        };
        self.list[first].value = self.write(write);
        if self.list[first + 1..].iter().any(|field| self.is(field, known, name)) {
            let mut at = 0;
            let text = &self.text;
            self.list.retain(|field| {
                at += 1;
                at - 1 <= first || !is(text, field, known, name)
            });
        }
    }

    fn is(&self, field: &Field, known: Known, name: &str) -> bool {
        is(&self.text, field, known, name)
    }

    /// Removes every field of `name`, which is in lower case.
    pub(crate) fn remove(&mut self, name: &str) {
        let known = Known::of(name.as_bytes());
        let text = &self.text;
        self.list.retain(|field| !is(text, field, known, name));
    }

    /// Removes every field that is `known`, which is no [`Known::Other`].
    pub(crate) fn remove_known(&mut self, known: Known) {
        self.list.retain(|field| field.known != known);
    }

    /// Keeps the fields of which `keep` says so.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Known, &[u8]) -> bool) {
        let text = &self.text;
        self.list.retain(|field| keep(field.known, field.name.of(text)));
    }

    /// Bytes of all fields as metrics count them: with four for what separates them.
    pub(crate) fn size(&self) -> u64 {
        self.list.iter().map(|field| u64::from(field.name.length) + u64::from(field.value.length) + 4).sum()
    }
}

fn is(text: &[u8], field: &Field, known: Known, name: &str) -> bool {
    if field.known != known {
        return false;
    }
    if !matches!(known, Known::Other | Known::Envoy) {
        return true;
    }
    // Most names of one length differ at their end.
    let (own, name) = (field.name, name.as_bytes());
    own.length as usize == name.len()
        && text.get((own.start + own.length).wrapping_sub(1) as usize) == name.last()
        && own.of(text) == name
}

impl Headers for Fields {
    fn values<'a>(&'a self, name: &HeaderName, each: &mut dyn FnMut(&'a [u8])) {
        let name = name.as_str();
        let known = Known::of(name.as_bytes());
        self.list.iter().filter(|field| self.is(field, known, name)).for_each(|field| each(field.value.of(&self.text)));
    }
}

/// Names alone: values may be secrets.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| String::from_utf8_lossy(name))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(fields: &Fields) -> String {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        fields.iter().map(|(name, value)| format!("{}={} ", text(name), text(value))).collect()
    }

    #[test]
    fn fields_keep_their_order_and_their_repetitions() {
        let mut fields = Fields::default();
        for (name, value) in
            [("a", "1"), ("cookie", "x"), ("b", "2"), ("a", "3"), ("x-envoy-q", "4"), ("x-envoy-r", "5")]
        {
            fields.add(name, value.as_bytes());
        }
        fields.set("a", b"new");
        assert_eq!(show(&fields), "a=new cookie=x b=2 x-envoy-q=4 x-envoy-r=5 ");
        fields.set("x-envoy-r", b"6");
        fields.set("c", b"");
        fields.set_known(Known::Cookie, b"y");
        fields.set_known(Known::Server, b"s");
        assert_eq!(show(&fields), "a=new cookie=y b=2 x-envoy-q=4 x-envoy-r=6 c= server=s ");
        fields.remove("x-envoy-q");
        fields.remove("b");
        fields.remove("nothing");
        fields.remove_known(Known::Cookie);
        assert_eq!(show(&fields), "a=new x-envoy-r=6 c= server=s ");
        assert_eq!(fields.size(), 4 + 1 + 3 + (4 + 9 + 1) + (4 + 1) + (4 + 6 + 1));
        fields.clear();
        assert_eq!((show(&fields).as_str(), fields.size()), ("", 0));
    }

    #[test]
    fn matching_sees_every_value() {
        let mut fields = Fields::default();
        fields.add("x-a", b"1");
        fields.add("x-b", b"2");
        fields.add("x-a", b"3");
        let mut seen = Vec::new();
        fields.values(&HeaderName::from_static("x-a"), &mut |value| seen.push(value.to_vec()));
        assert_eq!(seen, [b"1", b"3"]);
        assert_eq!(fields.first(&HeaderName::from_static("x-b")), Some(&b"2"[..]));
        assert_eq!(fields.first(&HeaderName::from_static("x-c")), None);
    }

    #[test]
    fn a_head_is_adopted_with_its_names_in_lower_case() {
        let mut fields = Fields::default();
        fields.announce(Span::new(0, 4), Span::new(6, 1));
        fields.announce(Span::new(9, 3), Span::new(13, 1));
        fields.adopt(b"HoSt: A\r\nX-B:c\r\n");
        assert_eq!(show(&fields), "host=A x-b=c ");
        assert!(fields.contains(Known::Host));
    }
}
