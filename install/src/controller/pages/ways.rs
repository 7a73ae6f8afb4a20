// SPDX-License-Identifier: Apache-2.0
//! Ways of edges between placed nodes, so that none leads through another node, and places of their labels. Pure.

use super::layout::{HEIGHT, Layout, WIDTH};

/// Distance of an edge's two ends from the middle of a node's side, so that calls in both directions are two lines.
const APART: f64 = 7.0;
/// Distance of a line from the row of nodes that it passes.
const PASSES: f64 = 9.0;
/// Lines through the same space lie beside each other, so many, and so far apart: along a row, and between two columns.
const TRACKS: usize = 5;
const TRACK: f64 = 2.5;
const SPREAD: f64 = 12.0;
/// Space between two columns that a line bends in.
const BEND: f64 = 104.0;
/// Size of an arrow's head.
const HEAD: f64 = 8.0;
/// Places on a bend that a label is tried at.
const TRIED: [f64; 5] = [0.5, 0.35, 0.65, 0.22, 0.78];
/// Size of a label: a letter's mean width, and its height with some space around.
const LETTER: f64 = 6.2;
const LINE: f64 = 14.0;

/// The way of an edge.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Way {
    /// Path of the line, and of the arrow's head.
    pub line: String,
    pub head: String,
    /// Places for the middle of a label, the best one first.
    pub labels: Vec<(f64, f64)>,
}

/// A line that bends from one level to another one, by way of the middle's place.
#[derive(Clone, Copy)]
struct Bend {
    from: (f64, f64),
    middle: f64,
    to: (f64, f64),
}

impl Bend {
    /// The way on from its begin.
    fn path(self) -> String {
        let Self { from: (_, level), middle, to: (x, y) } = self;
        format!("C{middle:.0} {level:.1} {middle:.0} {y:.1} {x:.0} {y:.1}")
    }

    /// The point at a share of it.
    fn at(self, share: f64) -> (f64, f64) {
        let rest = 1.0 - share;
        let (begin, inner, end) = (rest.powi(3), 3.0 * rest * share, share.powi(3));
        let x = begin * self.from.0 + inner * self.middle + end * self.to.0;
        let y = (begin + inner * rest) * self.from.1 + (inner * share + end) * self.to.1;
        (x, y)
    }
}

/// Finds the way of the edge with this number.
pub(super) fn way(layout: &Layout, number: usize, from: usize, to: usize) -> Way {
    let ((from_x, from_y), (to_x, to_y)) = (layout.nodes[from], layout.nodes[to]);
    if from == to {
        return around(from_x + WIDTH, from_y);
    }
    let (leaves, comes) = (from_y + HEIGHT / 2.0 - APART, to_y + HEIGHT / 2.0 + APART);
    let (from_column, to_column) = (layout.columns[from], layout.columns[to]);
    let track = (number % TRACKS) as f64 - (TRACKS / 2) as f64;
    if from_column == to_column {
        return beside(from_x + WIDTH, track, (leaves, comes));
    }
    // All lengths along the way are the other way round for an edge that leads back.
    let (start, end, on) = match from_column < to_column {
        true => (from_x + WIDTH, to_x - HEAD, 1.0),
        false => (from_x, to_x + WIDTH + HEAD, -1.0),
    };
    let head = head(end, comes, on);
    let middle = |one: f64, other: f64| (one + other) / 2.0 + track * SPREAD;
    if from_column.abs_diff(to_column) == 1 {
        let bend = Bend { from: (start, leaves), middle: middle(start, end), to: (end, comes) };
        let line = format!("M{start:.0} {leaves:.1}{}", bend.path());
        return Way { line, head, labels: TRIED.map(|share| bend.at(share)).into() };
    }
    let passes = track * TRACK + if from_y > to_y { to_y + HEIGHT + PASSES } else { to_y - PASSES };
    let (bent, bends) = (start + on * BEND, end - on * (BEND - HEAD));
    let first = Bend { from: (start, leaves), middle: middle(start, bent), to: (bent, passes) };
    let last = Bend { from: (bends, passes), middle: middle(bends, end), to: (end, comes) };
    let line = format!("M{start:.0} {leaves:.1}{}H{bends:.0}{}", first.path(), last.path());
    let labels = TRIED.iter().flat_map(|share| [last.at(*share), first.at(*share)]).collect();
    Way { line, head, labels }
}

/// The way from a node to itself, above its right corner. There is no place for a label.
fn around(right: f64, top: f64) -> Way {
    let (out, back, high) = (right - 44.0, right - 18.0, top - 15.0);
    let end = top - HEAD;
    let line = format!("M{out:.0} {top:.0}C{out:.0} {high:.0} {back:.0} {high:.0} {back:.0} {end:.0}");
    let half = HEAD / 2.0;
    let head = format!("M{back:.0} {top:.0}L{:.0} {end:.0}H{:.0}Z", back - half, back + half);
    Way { line, head, labels: Vec::new() }
}

/// The way to a node in the same column.
fn beside(x: f64, track: f64, (leaves, comes): (f64, f64)) -> Way {
    let (end, out) = (x + HEAD, x + 36.0 + track * SPREAD / 3.0 + ((comes - leaves).abs() / 5.0).min(44.0));
    let line = format!("M{x:.0} {leaves:.1}C{out:.0} {leaves:.1} {out:.0} {comes:.1} {end:.0} {comes:.1}");
    let middle = x + (out - x) * 0.75;
    let labels = TRIED.map(|share| (middle, leaves + (comes - leaves) * share)).into();
    Way { line, head: head(end, comes, -1.0), labels }
}

/// An arrow's head behind the end of a line.
fn head(x: f64, y: f64, on: f64) -> String {
    let (tip, half) = (x + on * HEAD, HEAD / 2.0);
    format!("M{tip:.0} {y:.1}L{x:.0} {:.1}V{:.1}Z", y - half, y + half)
}

/// Places that labels have, none upon another one or upon a node.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// Left, top, right and bottom.
    taken: Vec<[f64; 4]>,
}

impl Labels {
    /// Begins with the nodes.
    pub(super) fn around(layout: &Layout) -> Self {
        let node = |(x, y): &(f64, f64)| [*x, *y, x + WIDTH, y + HEIGHT];
        Self { taken: layout.nodes.iter().map(node).collect() }
    }

    /// Gives a text of so many letters a place, if one is free.
    pub(super) fn place(&mut self, places: &[(f64, f64)], letters: usize) -> Option<(f64, f64)> {
        let half = letters as f64 * LETTER / 2.0;
        let space = |&(x, y): &(f64, f64)| [x - half, y - LINE / 2.0, x + half, y + LINE / 2.0];
        let apart = |one: [f64; 4], other: &[f64; 4]| {
            one[2] <= other[0] || other[2] <= one[0] || one[3] <= other[1] || other[3] <= one[1]
        };
        let free = places.iter().find(|place| self.taken.iter().all(|taken| apart(space(place), taken)))?;
        self.taken.push(space(free));
        Some(*free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_take_the_first_free_place() {
        let layout = Layout { nodes: vec![(0.0, 0.0)], columns: vec![0], ..Layout::default() };
        let mut labels = Labels::around(&layout);
        let places = [(50.0, 20.0), (300.0, 20.0), (300.0, 40.0)];
        assert_eq!(labels.place(&places, 5), Some(places[1]), "not upon the node");
        assert_eq!(labels.place(&places, 5), Some(places[2]));
        assert_eq!(labels.place(&places, 5), None);
        assert_eq!(labels.place(&[(340.0, 20.0)], 5), Some((340.0, 20.0)));
    }

    #[test]
    fn a_bend_begins_and_ends_where_it_says() {
        let bend = Bend { from: (10.0, 20.0), middle: 60.0, to: (110.0, 80.0) };
        assert_eq!((bend.at(0.0), bend.at(0.5), bend.at(1.0)), ((10.0, 20.0), (60.0, 50.0), (110.0, 80.0)));
    }
}
