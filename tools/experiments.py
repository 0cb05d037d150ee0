"""Which experiments can be run: those of the catalog's papers, and those that ask a question of our own."""

from __future__ import annotations

from catalog.schema import Catalog


def experiment_id(name: str) -> str:
    """A paper's id, or the name of an experiment that is no paper's. Raises CatalogError with the nearest paper."""
    from catalog.schema import load_catalog
    from reproductions.engine.show import gather

    catalog = load_catalog()
    return name if name in gather.questions(catalog.papers) else catalog.paper(name).id


def every_experiment(catalog: Catalog) -> list[str]:
    """Ids of all papers and the names of our own questions; not every paper has an experiment."""
    from reproductions.engine.show import gather

    return [*catalog.papers, *gather.questions(catalog.papers)]
