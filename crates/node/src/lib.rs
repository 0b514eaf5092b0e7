//! Composes the floors below: lifecycle, configuration, dispatch
