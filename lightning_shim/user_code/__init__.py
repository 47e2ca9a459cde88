"""The user's classes and scripts, read as syntax trees and bytecode. Nothing of them is run."""
