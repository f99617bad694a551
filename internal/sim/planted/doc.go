// Package planted proves that the simulation bites: a table of bugs that a tired
// engineer could write, each of which is planted into a copy of the sources, and
// each of which a simulated world has to find.
//
// Invariants: no source file is changed, the compiler is given other texts for
// them (go test -overlay); the text that a bug replaces occurs exactly once, or
// the table is out of date and fails; a bug that no world finds is a failure.
//
// The package never knows how worlds are made. It is made of tests alone.
package planted
