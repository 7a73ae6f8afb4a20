// SPDX-License-Identifier: Apache-2.0
//! Places of a graph's nodes and edges, the same for the same graph. Pure.
//!
//! A lane across the page for each namespace, a column for each step from callers to those that are called. In a lane, a column
//! with many nodes is as many columns as it takes, and nodes without connections fill the rows below.

use std::collections::BTreeMap;

/// Size of a node, and the distance of columns and rows, in pixels.
pub(super) const WIDTH: f64 = 176.0;
pub(super) const HEIGHT: f64 = 42.0;
const COLUMN: f64 = WIDTH + 110.0;
const ROW: f64 = HEIGHT + 18.0;
/// Space around the picture, above a lane's nodes for its name, and between lanes.
const MARGIN: f64 = 16.0;
const TITLE: f64 = 34.0;
const BELOW: f64 = 20.0;
const BETWEEN: f64 = 12.0;
/// Columns that a graph gets before its lanes grow downwards: more fit no screen.
const COLUMNS: usize = 6;
/// Rows of a lane's column before it is broken into several.
const ROWS: usize = 6;
/// Steps that have columns of their own. Of a longer chain of callers, several share one.
const MAX_LAYERS: usize = COLUMNS;
/// Rounds of the search for an order with few crossings. More change little.
const ROUNDS: usize = 6;

/// A graph: the lane of each node, and the nodes of each edge.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub lanes: Vec<String>,
    pub edges: Vec<(usize, usize)>,
}

/// A lane's place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lane {
    pub name: String,
    pub top: f64,
    pub height: f64,
}

/// Places of everything.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Layout {
    pub width: f64,
    pub height: f64,
    pub lanes: Vec<Lane>,
    /// Left upper corner of each node.
    pub nodes: Vec<(f64, f64)>,
    /// Column of each node, for the ways of edges.
    pub columns: Vec<usize>,
}

/// Place of a node in the grid: lane, column of the whole, row of the lane.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    lane: usize,
    column: usize,
    row: usize,
}

/// Places a graph.
pub(super) fn layout(graph: &Graph) -> Layout {
    let layers = layers(graph);
    let (names, lane_of) = lanes(graph, &layers);
    let mut grid = Grid::new(&layers, &lane_of, names.len());
    grid.order(graph);
    grid.layout(names)
}

/// Steps from callers of each node; `None` for one without edges.
fn layers(graph: &Graph) -> Vec<Option<usize>> {
    let count = graph.lanes.len();
    let (mut callees, mut callers) = (vec![Vec::new(); count], vec![Vec::new(); count]);
    for &(from, to) in graph.edges.iter().filter(|(from, to)| from != to) {
        callees[from].push(to);
        callers[to].push(from);
    }
    let order = order(&callees, &callers);
    let mut place = vec![0; count];
    order.iter().enumerate().for_each(|(at, &node)| place[node] = at);
    let mut layers = vec![0_usize; count];
    // In this order all edges but those that close a circle lead onwards.
    for &node in &order {
        for &to in callees[node].iter().filter(|&&to| place[to] > place[node]) {
            layers[to] = layers[to].max(layers[node] + 1);
        }
    }
    for node in 0..count {
        // A caller stands beside the first that it calls, not at the far left.
        let nearest = callees[node].iter().map(|&to| layers[to]).filter(|&layer| layer > 0).min();
        if let Some(nearest) = nearest.filter(|_| callers[node].is_empty()) {
            layers[node] = nearest - 1;
        }
    }
    let touched = |node: usize| !callees[node].is_empty() || !callers[node].is_empty();
    fewer((0..count).map(|node| touched(node).then_some(layers[node])).collect())
}

/// Lets steps share columns where there are too many, so that each column has as many nodes as the others.
fn fewer(layers: Vec<Option<usize>>) -> Vec<Option<usize>> {
    let mut sorted: Vec<usize> = layers.iter().flatten().copied().collect();
    sorted.sort_unstable();
    if sorted.last().is_none_or(|last| *last < MAX_LAYERS) {
        return layers;
    }
    let before = |layer: usize| sorted.partition_point(|one| *one < layer);
    layers.iter().map(|layer| layer.map(|layer| before(layer) * MAX_LAYERS / sorted.len())).collect()
}

/// Nodes with callers before callees, as far as there is no circle: by depth first search, those without callers first.
fn order(callees: &[Vec<usize>], callers: &[Vec<usize>]) -> Vec<usize> {
    let mut starts: Vec<usize> = (0..callees.len()).collect();
    starts.sort_by_key(|&node| (callers[node].len(), node));
    let (mut seen, mut finished) = (vec![false; callees.len()], Vec::new());
    for start in starts {
        let mut stack = vec![(start, 0)];
        if std::mem::replace(&mut seen[start], true) {
            continue;
        }
        while let Some((node, next)) = stack.pop() {
            match callees[node].get(next) {
                Some(&to) => {
                    stack.push((node, next + 1));
                    if !std::mem::replace(&mut seen[to], true) {
                        stack.push((to, 0));
                    }
                }
                None => finished.push(node),
            }
        }
    }
    finished.reverse();
    finished
}

/// Names of the lanes from top to bottom, and the lane of each node. Callers' namespaces come first; no namespace, last.
fn lanes(graph: &Graph, layers: &[Option<usize>]) -> (Vec<String>, Vec<usize>) {
    let mut of = BTreeMap::<&str, (usize, usize)>::new();
    for (name, layer) in graph.lanes.iter().zip(layers) {
        let (sum, count) = of.entry(name).or_default();
        *sum += layer.unwrap_or_default();
        *count += usize::from(layer.is_some());
    }
    let mut names: Vec<(&str, (usize, usize))> = of.into_iter().collect();
    // Means as whole numbers; a lane without any edge is below those with some.
    let mean = |(sum, count): (usize, usize)| (sum * 100).checked_div(count).unwrap_or(usize::MAX);
    names.sort_by_key(|(name, of)| (name.is_empty(), mean(*of), *name));
    let place = |name: &str| names.iter().position(|(one, _)| *one == name).unwrap_or_default();
    let lane_of = graph.lanes.iter().map(|name| place(name)).collect();
    (names.iter().map(|(name, _)| (*name).to_owned()).collect(), lane_of)
}

/// Nodes in lanes, columns and rows.
struct Grid {
    /// Nodes with edges of each lane and layer, in their order.
    cells: BTreeMap<(usize, usize), Vec<usize>>,
    /// Nodes without edges of each lane.
    alone: Vec<Vec<usize>>,
    /// First column of each layer, its columns, and columns in all.
    firsts: Vec<usize>,
    widths: Vec<usize>,
    columns: usize,
    places: Vec<Cell>,
}

impl Grid {
    fn new(layers: &[Option<usize>], lane_of: &[usize], lanes: usize) -> Self {
        let mut cells = BTreeMap::<(usize, usize), Vec<usize>>::new();
        let mut alone = vec![Vec::new(); lanes];
        for (node, (layer, &lane)) in layers.iter().zip(lane_of).enumerate() {
            match layer {
                Some(layer) => cells.entry((lane, *layer)).or_default().push(node),
                None => alone[lane].push(node),
            }
        }
        let layers = cells.keys().map(|(_, layer)| layer + 1).max().unwrap_or_default();
        let widths = |rows: usize| {
            let mut widths = vec![0; layers];
            for ((_, layer), nodes) in &cells {
                widths[*layer] = nodes.len().div_ceil(rows).max(widths[*layer]);
            }
            widths
        };
        let mut rows = ROWS;
        while widths(rows).iter().sum::<usize>() > COLUMNS.max(layers) {
            rows += 1;
        }
        let widths = widths(rows);
        let firsts =
            widths.iter().scan(0, |next, width| Some(std::mem::replace(next, *next + width))).collect();
        let most_alone = alone.iter().map(Vec::len).max().unwrap_or_default();
        let columns = widths.iter().sum::<usize>().max(most_alone.min(COLUMNS)).max(1);
        let mut grid =
            Self { cells, alone, firsts, widths, columns, places: vec![Cell::default(); lane_of.len()] };
        grid.place();
        grid
    }

    fn place(&mut self) {
        let mut below = vec![0; self.alone.len()];
        for ((lane, layer), nodes) in &self.cells {
            let rows = nodes.len().div_ceil(self.widths[*layer]);
            for (at, &node) in nodes.iter().enumerate() {
                let (column, row) = (self.firsts[*layer] + at / rows, at % rows);
                self.places[node] = Cell { lane: *lane, column, row };
            }
            below[*lane] = rows.max(below[*lane]);
        }
        for (lane, nodes) in self.alone.iter().enumerate() {
            for (at, &node) in nodes.iter().enumerate() {
                let (column, row) = (at % self.columns, below[lane] + at / self.columns);
                self.places[node] = Cell { lane, column, row };
            }
        }
    }

    /// Sorts each cell by the mean height of its nodes' neighbours, a few times, so that few edges cross.
    fn order(&mut self, graph: &Graph) {
        let mut neighbours = vec![Vec::new(); graph.lanes.len()];
        for &(from, to) in graph.edges.iter().filter(|(from, to)| from != to) {
            neighbours[from].push(to);
            neighbours[to].push(from);
        }
        for _ in 0..ROUNDS {
            // A lane is higher than all that is in it.
            let height = |cell: Cell| cell.lane * 1_000 + cell.row;
            let means: Vec<usize> = neighbours
                .iter()
                .map(|of| {
                    of.iter().map(|&one| height(self.places[one])).sum::<usize>() * 100 / of.len().max(1)
                })
                .collect();
            for nodes in self.cells.values_mut() {
                nodes.sort_by_key(|&node| (means[node], node));
            }
            self.place();
        }
    }

    fn layout(self, names: Vec<String>) -> Layout {
        let mut rows = vec![0; names.len()];
        self.places.iter().for_each(|cell| rows[cell.lane] = rows[cell.lane].max(cell.row + 1));
        let mut top = MARGIN;
        let mut lanes = Vec::new();
        for (name, rows) in names.into_iter().zip(rows) {
            let height = TITLE + rows as f64 * ROW - (ROW - HEIGHT) + BELOW;
            lanes.push(Lane { name, top, height });
            top += height + BETWEEN;
        }
        let at = |cell: &Cell| {
            let x = MARGIN * 2.0 + cell.column as f64 * COLUMN;
            (x, lanes[cell.lane].top + TITLE + cell.row as f64 * ROW)
        };
        Layout {
            // Room at the right for edges within the last column.
            width: MARGIN * 4.0 + self.columns as f64 * COLUMN - (COLUMN - WIDTH) + 70.0,
            height: top - BETWEEN + MARGIN,
            nodes: self.places.iter().map(at).collect(),
            columns: self.places.iter().map(|cell| cell.column).collect(),
            lanes,
        }
    }
}
