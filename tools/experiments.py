"""Which experiments can be run: those of the catalog's papers, and those that ask a question of our own."""

from __future__ import annotations


def experiment_id(name: str) -> str:
    """A paper's id, or the name of an experiment that is no paper's. Raises CatalogError with the nearest paper."""
    from catalog.schema import load_catalog
    from reproductions.engine.plan.experiment import list_papers
    from reproductions.engine.show import gather

    catalog = load_catalog()
    ours = set(list_papers(gather.PAPERS)) - set(catalog.papers)
    return name if name in ours else catalog.paper(name).id
