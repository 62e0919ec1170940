class Progress:
    def on_fit_end(self, trainer):
        pass
