import java.util.Collections;
import java.util.List;
import org.opensearch.Version;
import org.opensearch.common.settings.Settings;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.plugins.PluginInfo;

/** A node of OpenSearch 3, with setting=value as arguments. It ends with its standard input. */
public class OpenSearch extends Node {
  OpenSearch(Settings settings) {
    super(
        InternalSettingsPreparer.prepareEnvironment(
            settings, Collections.emptyMap(), null, () -> "test"),
        List.of(
            plugin("org.opensearch.transport.Netty4ModulePlugin"),
            plugin("org.opensearch.index.reindex.ReindexModulePlugin")),
        true);
  }

  static PluginInfo plugin(String name) {
    return new PluginInfo(
        name, name, "1", Version.CURRENT, "21", name, null, Collections.emptyList(), false);
  }

  public static void main(String[] arguments) throws Exception {
    Settings.Builder settings = Settings.builder();
    for (String argument : arguments) {
      String[] both = argument.split("=", 2);
      settings.put(both[0], both[1]);
    }
    new OpenSearch(settings.build()).start();
    while (System.in.read() >= 0) {}
    Runtime.getRuntime().halt(0);
  }
}
