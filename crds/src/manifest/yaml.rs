//! YAML parser: from text to documents that know the line of each field.
//!
//! A document with an error in its syntax is left out, and those around it are read all the
//! same. Size, depth and aliases are bounded.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use granit_parser::{Event, Options, Parser, options};
use serde_json::{Map, Value};

use super::SourceFile;
use super::scalar::scalar;
use crate::manifest::diagnostics::{Diagnostic, field, shown};
use crate::manifest::document::{Document, title};

/// Largest file in bytes.
const MAX_BYTES: usize = 4 << 20;

/// Most values in one file, after aliases are expanded.
const MAX_NODES: usize = 100_000;

/// Bytes of text that count as one more value when an alias is expanded.
const BYTES_PER_NODE: usize = 64;

/// Deepest nesting, after aliases are expanded.
const MAX_DEPTH: usize = 48;

/// Documents of a file.
#[derive(Debug, Default)]
pub(crate) struct ParsedStream {
    pub(crate) documents: Vec<Document>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Whether something was left out, so that what seems to be missing may only be unreadable.
    pub(crate) incomplete: bool,
}

/// Suggests a remedy for an error of the parser.
fn remedy(said: &str) -> &'static str {
    if said.contains("scanning a tag") {
        "; put a value that begins with `!` in quotes, as in when: '!changed(\"status\")'"
    } else if said.contains("mapping values are not allowed") {
        "; put a value that holds `: ` in quotes, and indent fields of one mapping alike"
    } else if said.contains("cannot start any token") || said.contains("tab") {
        "; put a value that begins with `@`, `%` or a backtick in quotes, and indent by spaces"
    } else if said.contains("anchor") || said.contains("alias") {
        "; put a value that begins with `&` or `*` in quotes"
    } else {
        ""
    }
}

/// Parses every document of a file.
pub(crate) fn parse(file: &SourceFile) -> ParsedStream {
    let mut reader = Reader::new(&file.path);
    if file.text.len() > MAX_BYTES {
        let limit = MAX_BYTES >> 20;
        reader.report_incomplete(
            None,
            format!("is larger than {limit} MiB; split it into several files"),
        );
        return reader.stream;
    }
    let mut parser = Parser::new_from_str_with_options(&file.text, parser_options());
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => reader.event(event, span.start.line()),
            Err(error) => {
                reader.report_incomplete(
                    Some(error.marker().line()),
                    format!(
                        "is not valid YAML: {}{}",
                        error.info(),
                        remedy(&error.info())
                    ),
                );
                reader.reset();
                if !parser.proceed_next_document().unwrap_or(false) {
                    break;
                }
            }
        }
        if reader.nodes > MAX_NODES {
            reader.report_incomplete(
                None,
                format!("holds more than {MAX_NODES} values; split it into several files"),
            );
            break;
        }
    }
    reader.stream
}

fn parser_options() -> Options {
    options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    }
}

#[derive(Clone, Debug)]
struct Node {
    line: usize,
    data: NodeData,
}

#[derive(Clone, Debug)]
enum NodeData {
    Scalar(Value),
    List(Vec<Node>),
    /// Fields with the lines of their names.
    Map(BTreeMap<String, (usize, Node)>),
    /// Something that cannot be read, and why.
    Invalid(String),
}

/// List or mapping that is still open.
struct Frame {
    node: Node,
    anchor: usize,
    /// Name of the next field, in a mapping.
    name: Option<(String, usize)>,
    /// Why this node is invalid although its content can be read.
    invalid: Option<String>,
    /// Fields that are given twice: name, line of the first, line of the other.
    duplicates: Vec<(String, usize, usize)>,
}

struct Reader<'a> {
    file: &'a str,
    stream: ParsedStream,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// Fields that are given twice: name, line of the first, line of the other.
    duplicates: Vec<(usize, String)>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a str) -> Self {
        Self {
            file,
            stream: ParsedStream::default(),
            stack: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            duplicates: Vec::new(),
        }
    }

    fn report_incomplete(&mut self, line: Option<usize>, message: String) {
        self.stream.incomplete = true;
        self.stream.diagnostics.push(Diagnostic {
            file: self.file.to_owned(),
            line,
            path: String::new(),
            message,
        });
    }

    fn reset(&mut self) {
        self.stack.clear();
        self.anchors.clear();
        self.duplicates.clear();
    }

    fn event(&mut self, event: Event<'_>, line: usize) {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let data = if tag.is_some() {
                    NodeData::Invalid(tags_unsupported())
                } else if self.expects_field_name() {
                    // A name is text, even if it looks like a number.
                    NodeData::Scalar(Value::String(text.into_owned()))
                } else {
                    scalar(&text, style)
                        .map_or_else(|why| NodeData::Invalid(why.into()), NodeData::Scalar)
                };
                self.close(Node { line, data }, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(NodeData::List(Vec::new()), line, anchor, tag.is_some());
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(NodeData::Map(BTreeMap::new()), line, anchor, tag.is_some());
            }
            Event::SequenceEnd | Event::MappingEnd => self.pop(),
            Event::Alias(anchor) => {
                let data = self.follow(anchor);
                self.close(Node { line, data }, 0);
            }
            Event::DocumentEnd => self.reset(),
            _ => {}
        }
    }

    fn expects_field_name(&self) -> bool {
        self.stack.last().is_some_and(|frame| {
            frame.name.is_none() && matches!(frame.node.data, NodeData::Map(_))
        })
    }

    fn open(&mut self, data: NodeData, line: usize, anchor: usize, tagged: bool) {
        self.stack.push(Frame {
            node: Node { line, data },
            anchor,
            name: None,
            invalid: tagged.then(tags_unsupported),
            duplicates: Vec::new(),
        });
    }

    fn pop(&mut self) {
        let Some(frame) = self.stack.pop() else {
            return;
        };
        for (name, first, line) in frame.duplicates {
            let name = shown(&name);
            self.duplicates.push((
                line,
                format!("`{name}` is given twice, first on line {first}; keep one of them"),
            ));
        }
        let mut node = frame.node;
        if let Some(why) = frame.invalid {
            node.data = NodeData::Invalid(why);
        }
        self.close(node, frame.anchor);
    }

    /// Expands an alias.
    fn follow(&mut self, anchor: usize) -> NodeData {
        let Some(node) = self.anchors.get(&anchor) else {
            return NodeData::Invalid("is an alias of something around it; write it out".into());
        };
        if self.stack.len() + node.height() > MAX_DEPTH {
            return NodeData::Invalid(format!(
                "is nested deeper than {MAX_DEPTH} levels; write it flatter"
            ));
        }
        let size = node.size();
        // The size counts before the copy is made, so that the bound holds for memory too.
        if self.nodes + size > MAX_NODES {
            self.nodes = MAX_NODES + 1;
            return NodeData::Scalar(Value::Null);
        }
        self.nodes += size;
        node.data.clone()
    }

    /// Adds a finished node to what is around it.
    fn close(&mut self, node: Node, anchor: usize) {
        self.nodes += 1;
        if anchor != 0 {
            self.nodes += node.size();
            self.anchors.insert(anchor, node.clone());
        }
        let Some(frame) = self.stack.last_mut() else {
            self.finish(node);
            return;
        };
        match &mut frame.node.data {
            NodeData::List(items) => items.push(node),
            NodeData::Map(fields) => match (frame.name.take(), node.data) {
                (None, NodeData::Scalar(Value::String(name))) if name == "<<" => {
                    frame.invalid = Some(
                        "holds the merge key `<<`, which is not read; write the fields out".into(),
                    );
                    frame.name = Some((name, node.line));
                }
                (None, NodeData::Scalar(Value::String(name))) => {
                    frame.name = Some((name, node.line));
                }
                (None, _) => {
                    frame.invalid = Some("has a field whose name is not plain text".into());
                    frame.name = Some((String::new(), node.line));
                }
                (Some((name, line)), data) => {
                    let node = Node {
                        line: node.line,
                        data,
                    };
                    match fields.get(&name) {
                        Some((first, _)) => frame.duplicates.push((name, *first, line)),
                        None => {
                            fields.insert(name, (line, node));
                        }
                    }
                }
            },
            NodeData::Scalar(_) | NodeData::Invalid(_) => {}
        }
    }

    fn finish(&mut self, node: Node) {
        if matches!(node.data, NodeData::Scalar(Value::Null)) {
            return;
        }
        let mut document = Document {
            file: self.file.to_owned(),
            value: Value::Null,
            lines: BTreeMap::new(),
            placeholders: BTreeSet::new(),
            misnamed: BTreeSet::new(),
            title: String::new(),
        };
        let mut invalid = Vec::new();
        let line = node.line;
        document.value = flatten(node, String::new(), line, &mut document, &mut invalid);
        document.title = title(&document.value);
        for (pointer, message) in invalid {
            let diagnostic = document.diagnostic(&pointer, message);
            self.stream.diagnostics.push(diagnostic);
            document.placeholders.insert(pointer);
        }
        for (line, message) in self.duplicates.drain(..) {
            let diagnostic = document.diagnostic("", message);
            self.stream.diagnostics.push(Diagnostic {
                line: Some(line),
                ..diagnostic
            });
        }
        self.stream.documents.push(document);
    }
}

impl Node {
    /// Cost of a copy, in values.
    fn size(&self) -> usize {
        1 + match &self.data {
            NodeData::List(items) => items.iter().map(Self::size).sum(),
            NodeData::Map(fields) => {
                let sizes = fields.iter();
                sizes
                    .map(|(name, (_, node))| name.len() / BYTES_PER_NODE + node.size())
                    .sum()
            }
            NodeData::Scalar(Value::String(text)) => text.len() / BYTES_PER_NODE,
            NodeData::Scalar(_) | NodeData::Invalid(_) => 0,
        }
    }

    fn height(&self) -> usize {
        1 + match &self.data {
            NodeData::List(items) => items.iter().map(Self::height).max().unwrap_or(0),
            NodeData::Map(fields) => {
                let heights = fields.values().map(|(_, node)| node.height());
                heights.max().unwrap_or(0)
            }
            NodeData::Scalar(_) | NodeData::Invalid(_) => 0,
        }
    }
}

fn tags_unsupported() -> String {
    "has a YAML tag, which is not read; write the plain value, text in quotes".into()
}

/// Converts a node to JSON, and collects its lines and what is invalid in it.
fn flatten(
    node: Node,
    pointer: String,
    line: usize,
    document: &mut Document,
    invalid: &mut Vec<(String, String)>,
) -> Value {
    let value = match node.data {
        NodeData::Scalar(value) => value,
        NodeData::List(items) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| {
                let line = item.line;
                flatten(item, format!("{pointer}/{index}"), line, document, invalid)
            })
            .collect(),
        NodeData::Map(fields) => {
            let mut map = Map::new();
            for (name, (line, node)) in fields {
                let value = flatten(node, field(&pointer, &name), line, document, invalid);
                map.insert(name, value);
            }
            Value::Object(map)
        }
        NodeData::Invalid(message) => {
            invalid.push((pointer.clone(), message));
            Value::Null
        }
    };
    document.lines.insert(pointer, line);
    value
}
