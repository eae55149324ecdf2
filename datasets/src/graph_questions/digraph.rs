//! What the answers are read from: the simple directed graph of a workflow.

use crate::workflow::Workflow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A directed graph without repeated edges; self-loops stay. Nodes are numbered by rank, in ascending order of their ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimpleDigraph {
    ids: Vec<u32>,
    successors: Vec<Vec<usize>>,
    predecessors: Vec<Vec<usize>>,
}

impl SimpleDigraph {
    /// The graph of a workflow. An edge with an end that is not among the nodes is left out; readers refuse such edges.
    pub fn new(workflow: &Workflow) -> Self {
        let ids = workflow.sorted_ids();
        let mut successors = vec![Vec::new(); ids.len()];
        let mut predecessors = vec![Vec::new(); ids.len()];
        for [source, target] in &workflow.edges {
            if let (Ok(source), Ok(target)) = (ids.binary_search(source), ids.binary_search(target)) {
                successors[source].push(target);
                predecessors[target].push(source);
            }
        }
        for neighbours in successors.iter_mut().chain(&mut predecessors) {
            neighbours.sort_unstable();
            neighbours.dedup();
        }
        Self { ids, successors, predecessors }
    }

    /// The ids of the nodes, ascending.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The rank of an id.
    pub fn rank(&self, id: u32) -> Option<usize> {
        self.ids.binary_search(&id).ok()
    }

    /// The ids with an edge into the node, ascending.
    pub fn predecessors(&self, node: usize) -> Vec<u32> {
        self.predecessors[node].iter().map(|node| self.ids[*node]).collect()
    }

    /// The ids with an edge from the node, ascending.
    pub fn successors(&self, node: usize) -> Vec<u32> {
        self.successors[node].iter().map(|node| self.ids[*node]).collect()
    }

    /// All edges, as ids, ascending.
    pub fn edges(&self) -> Vec<[u32; 2]> {
        let targets = self.ids.iter().zip(&self.successors);
        targets.flat_map(|(source, targets)| targets.iter().map(|target| [*source, self.ids[*target]])).collect()
    }

    /// The number of edges into the node.
    pub fn in_degree(&self, node: usize) -> usize {
        self.predecessors[node].len()
    }

    /// The number of edges out of the node.
    pub fn out_degree(&self, node: usize) -> usize {
        self.successors[node].len()
    }

    /// The mean of in-degree plus out-degree, `2·E / N`, to two decimals; `0.00` without nodes.
    pub fn average_degree(&self) -> String {
        let edges: usize = self.successors.iter().map(Vec::len).sum();
        format!("{:.2}", 2.0 * edges as f64 / self.ids.len().max(1) as f64)
    }

    /// The number of edges on a shortest directed path; none where there is no path; 0 from a node to itself.
    pub fn distance(&self, source: usize, target: usize) -> Option<usize> {
        let mut distances = vec![None; self.ids.len()];
        distances[source] = Some(0);
        let mut queue = VecDeque::from([(source, 0)]);
        while let Some((node, distance)) = queue.pop_front() {
            if node == target {
                return Some(distance);
            }
            for next in &self.successors[node] {
                if distances[*next].is_none() {
                    distances[*next] = Some(distance + 1);
                    queue.push_back((*next, distance + 1));
                }
            }
        }
        None
    }

    /// The ids of the nodes without an edge into them, ascending. A self-loop is such an edge.
    pub fn sources(&self) -> Vec<u32> {
        self.without(&self.predecessors)
    }

    /// The ids of the nodes without an edge out of them, ascending. A self-loop is such an edge.
    pub fn sinks(&self) -> Vec<u32> {
        self.without(&self.successors)
    }

    fn without(&self, neighbours: &[Vec<usize>]) -> Vec<u32> {
        self.ids.iter().zip(neighbours).filter(|(_, neighbours)| neighbours.is_empty()).map(|(id, _)| *id).collect()
    }

    /// The ids in the topological order that takes the smallest available id each time; none for a graph with a cycle.
    pub fn topological_order(&self) -> Option<Vec<u32>> {
        let mut waiting: Vec<usize> = self.predecessors.iter().map(Vec::len).collect();
        let available = waiting.iter().enumerate().filter(|(_, waiting)| **waiting == 0).map(|(node, _)| Reverse(node));
        let mut available: BinaryHeap<Reverse<usize>> = available.collect();
        let mut order = Vec::with_capacity(self.ids.len());
        while let Some(Reverse(node)) = available.pop() {
            order.push(self.ids[node]);
            for next in &self.successors[node] {
                waiting[*next] -= 1;
                if waiting[*next] == 0 {
                    available.push(Reverse(*next));
                }
            }
        }
        (order.len() == self.ids.len()).then_some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(ids: &[u32], edges: &[[u32; 2]]) -> SimpleDigraph {
        let nodes = ids.iter().map(|id| (*id, String::new())).collect();
        SimpleDigraph::new(&Workflow { nodes, edges: edges.to_vec() })
    }

    #[test]
    fn a_diamond_with_a_tail() {
        let graph = graph(&[0, 1, 2, 3, 4], &[[0, 1], [0, 2], [1, 3], [2, 3], [3, 4]]);
        let degrees =
            |degree: fn(&SimpleDigraph, usize) -> usize| (0..5).map(|n| degree(&graph, n)).collect::<Vec<_>>();
        assert_eq!(degrees(SimpleDigraph::in_degree), [0, 1, 1, 2, 1]);
        assert_eq!(degrees(SimpleDigraph::out_degree), [2, 1, 1, 1, 0]);
        assert_eq!(graph.average_degree(), "2.00");
        assert_eq!((graph.predecessors(3), graph.predecessors(0)), (vec![1, 2], vec![]));
        assert_eq!((graph.successors(0), graph.successors(4)), (vec![1, 2], vec![]));
        assert_eq!((graph.distance(0, 4), graph.distance(1, 4)), (Some(3), Some(2)));
        assert_eq!((graph.distance(1, 2), graph.distance(4, 0)), (None, None));
        assert_eq!((graph.sources(), graph.sinks()), (vec![0], vec![4]));
        assert_eq!(graph.topological_order(), Some(vec![0, 1, 2, 3, 4]));
    }

    #[test]
    fn ids_are_numbers_and_not_text() {
        let far = graph(&[0, 2, 10, 1], &[[10, 1], [2, 1]]);
        assert_eq!(far.topological_order(), Some(vec![0, 2, 10, 1]));
        assert_eq!((far.sources(), far.sinks()), (vec![0, 2, 10], vec![0, 1]));
        assert_eq!(far.average_degree(), "1.00");

        let cycle = graph(&[0, 1, 2], &[[0, 1], [1, 2], [2, 0]]);
        assert_eq!((cycle.topological_order(), cycle.sources(), cycle.sinks()), (None, vec![], vec![]));

        let looped = graph(&[0, 1, 2], &[[0, 1], [0, 1], [1, 1], [1, 2]]);
        assert_eq!((0..3).map(|n| looped.in_degree(n)).collect::<Vec<_>>(), [0, 2, 1]);
        assert_eq!((0..3).map(|n| looped.out_degree(n)).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!((looped.average_degree().as_str(), looped.topological_order()), ("2.00", None));
    }

    #[test]
    fn average_degree_rounds_as_python_does() {
        for (edges, nodes, want) in [(1, 16, "0.12"), (3, 16, "0.38"), (1, 80, "0.03"), (3, 80, "0.07"), (2, 3, "1.33")]
        {
            let ids: Vec<u32> = (0..nodes).collect();
            let edges: Vec<[u32; 2]> = (0..edges).map(|target| [0, target]).collect();
            assert_eq!(graph(&ids, &edges).average_degree(), want);
        }
    }
}
